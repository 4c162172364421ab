"""Nothing waits without need, which only a GPU can show; skipped if there is none."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_samples import GPU, NEEDS_GPU, on_gpu, trained
from mmengine.hooks import Hook
from training_samples import CPU, newest

from baselines import TABLE1, build_learner
from repro.training.batches.feed import Feed
from repro.training.batches.loading import make_loader
from repro.training.pretraining import open_data, plan_batches
from repro.training.steps.precision import wrap_optimizers

pytestmark = NEEDS_GPU


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [*TABLE1, "mocov2+ours-hp-released", "simclr+adios-all-masks"])
def test_a_step_never_waits_for_the_device(method: str, precision: str) -> None:
    run = on_gpu(method, optimization__precision=precision, machine__channels_last=True)
    images = open_data(run, "train")
    learner = build_learner(run, images, GPU)
    wrapper = wrap_optimizers(learner.optimizers, run.optimization.precision, GPU)
    batches = list(make_loader(learner.dataset, plan_batches(run, images, GPU), 0))
    for batch in batches:  # optimizers make their state in the first steps
        learner.model.train_step(batch, wrapper)
    torch.cuda.set_sync_debug_mode("error")
    learner.model.train_step(batches[0], wrapper)


class NoWaiting(Hook):
    """Refuses waits from the fifth step to the last but one: in steps, in all hooks, and for the next batch."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        torch.cuda.set_sync_debug_mode("error" if 4 <= runner.iter < runner.max_iters - 1 else "default")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("method", ["supervised", "mocov2+ours-hp"])
def test_nothing_of_a_training_waits_between_two_lines_of_the_log(method: str, replayed: bool, tmp_path: Path) -> None:
    run = on_gpu(
        method,
        data__scenes__train_count=80,
        localizer__map="image",
        optimization__epochs=1,
        optimization__precision="bf16",
        machine__graphs=replayed,  # from the fourth step on
        machine__resident=replayed,
        machine__log_every=20,
        machine__checkpoint_every=20,
    )
    assert newest(trained(run, tmp_path, GPU, NoWaiting()).checkpoints)["step"] == 10


def test_images_of_a_batch_cross_beside_the_step_and_arrive_as_they_are() -> None:
    run = on_gpu(machine__workers=1)
    images = open_data(run, "train")
    learner = build_learner(run, images, CPU)

    def loader() -> Any:
        return make_loader(learner.dataset, plan_batches(run, images, CPU), run.machine.workers)

    feed = Feed(GPU)
    arrived = []
    for batch in feed.batches(loader()):
        assert batch["query"].device == batch["key"].device == GPU
        assert {batch[name].device for name in ("query_draw", "key_draw", "epoch", "index")} == {CPU}
        torch.cuda._sleep(20_000_000)  # a step, in cycles
        arrived.append({name: value.to(CPU, copy=True) for name, value in batch.items()})
    assert feed.waited() > 0  # for the first batch, whose process had to start
    for ours, expected in zip(arrived, loader(), strict=True):
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_what_the_host_waits_while_the_gpu_is_busy_is_no_wait() -> None:
    def batches(seconds: float) -> Iterator[dict[str, Any]]:
        for _ in range(4):
            time.sleep(seconds)
            yield {"query": torch.zeros(1, 3, 8, 8)}

    def waited(seconds: float) -> float:
        feed = Feed(GPU)
        for number, _ in enumerate(feed.batches(batches(seconds))):
            if not number:
                torch.cuda.synchronize()
                feed.waited()  # nothing is queued before the first batch
            torch.cuda._sleep(1_000_000_000)  # half a second of an H100's
        return feed.waited()

    assert waited(0.02) < 0.01
    assert waited(2.0) > 3.0
