import math
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from torch import Generator, Tensor, nn
from training_samples import (
    CPU,
    assert_same,
    copied,
    on_two_processes,
    tiny,
)

from repro.backbones.checkpoint import read_checkpoint
from repro.backbones.foreign import read_foreign
from repro.contrastive.losses import info_nce
from repro.contrastive.moco import MoCo
from repro.errors import UserError
from repro.masking.views import Views
from repro.processes.distributed import (
    await_file,
    barrier,
    decided_by_first,
    gather,
    in_ddp,
    in_order,
    initialise,
    rank,
    share_of_rank,
    world_size,
)
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.runs.stopping import STOP
from repro.training.batches.loading import EpochBatches
from repro.training.checkpoints.files import newest_checkpoint, save_checkpoint
from repro.training.checkpoints.stop_agreement import StopAgreement
from repro.training.pretraining import is_pretrained, pretrain
from repro.training.watching.hooks import DivergenceError, FiniteGuard, RuntimeInfo

PLAIN = tiny("mocov2", {"encoder.width": 4, "optimization.epochs": 1, "machine.monitor_images": 0})
"""Two steps without masking, so that they are the same on any number of processes."""
BATCH, QUEUE, DIM, SEED = 8, 32, 16, 3
HALVES = (slice(0, 4), slice(4, 8))


def make_moco(splits: int = 1) -> MoCo:
    torch.manual_seed(0)
    model = MoCo("resnet18", DIM, queue=QUEUE, bn_splits=splits, seed=SEED)
    model.train()
    return model


def make_views() -> Views:
    generator = Generator().manual_seed(1)
    return Views(*(torch.randn(BATCH, 3, 32, 32, generator=generator) for _ in range(3)))


def rows_of(views: Views, rows: slice) -> Views:
    assert views.hard_negative is not None
    return Views(views.query[rows], views.key[rows], views.hard_negative[rows])


def step(model: nn.Module, views: Views) -> dict[str, Any]:
    """Loss, gradients and queue after one step."""
    loss = model(views=views, mode="loss")["loss"]
    loss.backward()
    inner = model.module if isinstance(model, MMDistributedDataParallel) else model
    assert isinstance(inner, MoCo)
    gradients = {name: p.grad.clone() for name, p in inner.encoder_q.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "gradients": gradients, "queue": inner.queue.keys.clone()}


def logged(number: int) -> dict[str, list[float]]:
    """What is logged for two steps, with losses 1 and 2 on rank 0, and 11 and 12 on rank 1."""
    hub = MessageHub.get_instance("ranks")
    info, runner = RuntimeInfo(9), SimpleNamespace(message_hub=hub, train_dataloader=range(9))
    for step in (1, 2):
        info.after_train_iter(runner, step, outputs={"loss": torch.tensor(10.0 * number + step)})
    return info.window(runner)


def diverged(number: int) -> list[str]:
    """The errors on each rank if steps were not finite on one rank, on both (first at different steps), and on none."""
    told = []
    for first_bad in ((-1, 6), (8, 4), (-1, -1)):
        guard = FiniteGuard(1)
        guard._first_bad = torch.tensor(first_bad[number])
        try:
            guard.verify()
            told.append("nothing")
        except DivergenceError as error:
            told.append(error.what)
    return told


def plans() -> dict[str, list[list[tuple[int, int]]]]:
    batches_of_plan = {}
    for name, batches in (("whole", EpochBatches(21, 8, 5)), ("odd", EpochBatches(21, 8, 5, drop_last=False))):
        batches.seek(2, 1)
        batches_of_plan[name] = list(batches)
    return batches_of_plan


def stops(number: int, asked_at: int, steps: int = 9) -> tuple[int, int, int]:
    """The step after which a process stops if rank 1 is asked to at one step; the signal, and the final answer."""
    agreement, end = StopAgreement(), 0
    STOP.signal = 0
    for done in range(1, steps):
        if number == 1 and done == asked_at:
            STOP.signal = signal.SIGUSR2
        if agreement.after_step():
            return done, STOP.signal, end
    if number == 1 and asked_at == steps:
        STOP.signal = signal.SIGUSR2
    end = int(agreement.at_once())
    return 0, STOP.signal, end


def decided_within(number: int) -> str:
    """A decision of rank 0 within another one, for which the other ranks wait."""
    return decided_by_first(lambda: decided_by_first(lambda: f"view of {number}") + ", decided within")


def refused_by_first(number: int) -> str:
    """The error on each rank if rank 0 refuses."""

    def decide() -> None:
        raise UserError(f"rank {number} refuses", mend="nothing")

    try:
        decided_by_first(decide)
    except UserError as error:
        return str(error)
    return "nothing"


def checkpoint_of(number: int, place: Path) -> tuple[str, int]:
    """The checkpoint from which a rank resumes if rank 1 sees a newer one that rank 0 does not see yet."""
    views = [place / "view-0", place / "view-1"]
    if number == 0:
        for step in (3, 5):
            save_checkpoint(views[0], step, {"step": step})
        views[1].mkdir()
        shutil.copy(views[0] / "step_00000005.pth", views[1] / "step_00000009.pth")
    barrier()
    newest = newest_checkpoint(views[number], lambda *_: None)
    assert newest is not None
    return newest[0].name, newest[1]["step"]


def pretrained_to(number: int, place: Path) -> list[bool]:
    """Whether a run is pretrained if rank 1 alone sees a backbone, and if it sees later what rank 0 sees."""
    answers = []
    for name, late in (("stale", (None, 0.0)), ("late", (0.0, 0.3))):
        folder = RunFolder(place / f"{name}-{number}")
        folder.path.mkdir()
        if (seconds := late[number]) is not None:
            Timer(seconds, folder.backbone.touch).start() if seconds else folder.backbone.touch()
        barrier()
        answers.append(is_pretrained(folder))
        assert not answers[-1] or folder.backbone.exists()
    return answers


def one_of_two(number: int, place: Path) -> dict[str, Any]:
    """What each of two processes computes."""
    assert (rank(), world_size()) == (number, 2)
    outcome: dict[str, Any] = {
        "device": str(initialise("cpu")),
        "gathered": gather(torch.full((2, 3), float(number))),
        "squares": in_order(gather(torch.tensor(share_of_rank(7)) ** 2), 7),
        "plans": plans(),
        "decided": [decided_by_first(lambda: f"view of {number}"), refused_by_first(number), decided_within(number)],
        "checkpoint": checkpoint_of(number, place),
        "pretrained": pretrained_to(number, place),
        "logged": logged(number),
        "diverged": diverged(number),
        "stops": [stops(number, asked_at) for asked_at in (1, 4, 8, 9, 99)],
    }
    STOP.signal = 0
    pretrain(PLAIN, RunFolder(place / "plain"), CPU)
    half = rows_of(make_views(), HALVES[number])
    for name in ("training", "frozen keys"):
        model = make_moco()
        if name == "frozen keys":
            model.encoder_k.eval()
        outcome[name] = step(in_ddp(model, CPU, MMDistributedDataParallel), half)
    return outcome


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(place: Path) -> Sequence[dict[str, Any]]:
    return on_two_processes(one_of_two, place)


def test_ranks_stop_one_step_after_one_of_them_was_asked_to(ranks: Sequence[dict[str, Any]]) -> None:
    number = int(signal.SIGUSR2)
    expected = [(2, number, 0), (5, number, 0), (0, number, 1), (0, number, 1), (0, 0, 0)]
    assert [outcome["stops"] for outcome in ranks] == [expected, expected]


def test_the_log_has_the_means_over_all_ranks(ranks: Sequence[dict[str, Any]]) -> None:
    assert [outcome["logged"] for outcome in ranks] == [{"train/loss": [6.0, 7.0]}] * 2


def test_all_ranks_end_where_a_loss_of_one_is_not_finite(ranks: Sequence[dict[str, Any]]) -> None:
    bad = "the gradient or loss of step {} is not finite; no checkpoint is written"
    assert [outcome["diverged"] for outcome in ranks] == [[bad.format(7), bad.format(5), "nothing"]] * 2


def test_where_ranks_see_different_files_the_first_one_decides(ranks: Sequence[dict[str, Any]]) -> None:
    decided = ["view of 0", "rank 0 refuses; mend: nothing", "view of 0, decided within"]
    assert [outcome["decided"] for outcome in ranks] == [decided] * 2
    assert [outcome["checkpoint"] for outcome in ranks] == [("step_00000005.pth", 5)] * 2
    assert [outcome["pretrained"] for outcome in ranks] == [[False, True]] * 2


def test_a_file_that_never_comes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.processes.distributed.VISIBLE_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"does not see .*put the runs into a folder that all nodes share"):
        await_file(tmp_path / "step_1.pth")


def mean_loss(ranks: Sequence[dict[str, Any]], name: str) -> Tensor:
    return (ranks[0][name]["loss"] + ranks[1][name]["loss"]) / 2


def test_gather_joins_in_the_order_of_ranks(ranks: Sequence[dict[str, Any]]) -> None:
    for outcome in ranks:
        assert outcome["gathered"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
        assert outcome["device"] == "cpu"


def test_results_of_shares_come_back_in_the_order_of_the_data(ranks: Sequence[dict[str, Any]]) -> None:
    for outcome in ranks:
        assert outcome["squares"].tolist() == [0, 1, 4, 9, 16, 25, 36]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 12])
def test_shares_are_equally_long_and_lose_no_item(monkeypatch: pytest.MonkeyPatch, world_size: int, count: int) -> None:
    monkeypatch.setattr("repro.processes.distributed.world_size", lambda: world_size)
    shares = []
    for number in range(world_size):
        monkeypatch.setattr("repro.processes.distributed.rank", lambda number=number: number)
        shares.append(share_of_rank(count))
    assert {len(share) for share in shares} == {math.ceil(count / world_size)}
    assert {index for share in shares for index in share} == set(range(count))
    labels = torch.tensor([index for share in shares for index in share], dtype=torch.int64)
    assert in_order(labels, count).tolist() == list(range(count))
    features = labels[:, None] + torch.arange(3) / 10  # M×3
    assert torch.equal(in_order(features, count), torch.arange(count)[:, None] + torch.arange(3) / 10)


def test_one_process_works_on_all_items() -> None:
    assert share_of_rank(3) == [0, 1, 2]
    assert in_order(torch.tensor([5, 3, 4]), 3).tolist() == [5, 3, 4]


def test_ranks_share_the_batches_of_one_process(ranks: Sequence[dict[str, Any]]) -> None:
    alone = plans()
    for shares, batch in zip(
        zip(*(outcome["plans"]["whole"] for outcome in ranks), strict=True), alone["whole"], strict=True
    ):
        assert [*shares[0], *shares[1]] == batch
    steps = zip(*(outcome["plans"]["odd"] for outcome in ranks), strict=True)
    shared = [item for shares in steps for share in shares for item in share]
    expected = [item for batch in alone["odd"] for item in batch]
    assert len(expected) == 21 - 8  # from the second batch on, with the five images left over in the last one
    assert shared[: len(expected)] == expected
    assert len(shared) == len(expected) + 1  # one from the epoch's beginning, so that both ranks have as many


def reference_step(model: MoCo, views: Views) -> dict[str, Any]:
    """ShuffleBN on two devices written out: each half of a batch is normalised by itself."""
    assert views.hard_negative is not None
    queue = model.queue.keys.clone()
    query = torch.cat([F.normalize(model.encoder_q(views.query[half]), dim=1) for half in HALVES])
    keys = []
    for number, images in enumerate((views.key, views.hard_negative)):
        generator = Generator().manual_seed(stream_seed(SEED, Purpose.shuffle, 0, number))
        order = torch.randperm(BATCH, generator=generator)
        embedded = torch.cat([model.encoder_k(images[order[half]]) for half in HALVES])
        unshuffled = torch.empty_like(embedded)
        unshuffled[order] = F.normalize(embedded, dim=1)
        keys.append(unshuffled)
    loss = info_nce(query, keys[0], queue, keys[1], temperature=0.2, hard_negative_weight=2.0)
    loss.backward()
    gradients = {name: p.grad for name, p in model.encoder_q.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients, "queue": torch.cat([keys[0].T, queue[:, BATCH:]], 1)}


def assert_close_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (actual[name] - gradient).norm() / gradient.norm()
        assert error < 1e-3, (name, float(error))


def test_a_step_of_two_processes_is_moco_with_shuffled_batch_norm(ranks: Sequence[dict[str, Any]]) -> None:
    expected = reference_step(make_moco(), make_views())
    torch.testing.assert_close(mean_loss(ranks, "training"), expected["loss"], rtol=1e-5, atol=1e-5)
    for outcome in ranks:
        torch.testing.assert_close(outcome["training"]["queue"], expected["queue"], rtol=0, atol=1e-5)
        assert_close_gradients(outcome["training"]["gradients"], expected["gradients"])


@pytest.mark.parametrize("name", ["training", "frozen keys"])
def test_queues_and_gradients_stay_equal_across_ranks(ranks: Sequence[dict[str, Any]], name: str) -> None:
    for outcome in ("queue", "gradients"):
        assert_same(ranks[0][name][outcome], ranks[1][name][outcome])


@pytest.mark.parametrize("name", ["training", "frozen keys"])
def test_one_process_with_two_groups_equals_two_processes(ranks: Sequence[dict[str, Any]], name: str) -> None:
    model = make_moco(splits=2)
    if name == "frozen keys":
        model.encoder_k.eval()
    alone, joined = step(model, make_views()), ranks[0][name]
    torch.testing.assert_close(mean_loss(ranks, name), alone["loss"], rtol=1e-5, atol=1e-5)
    assert_close_gradients(joined["gradients"], alone["gradients"])
    torch.testing.assert_close(joined["queue"], alone["queue"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The folder of the plain run, trained by one process."""
    folder = RunFolder(tmp_path_factory.mktemp("alone") / "plain")
    pretrain(PLAIN, folder, CPU)
    return folder


def assert_same_statistics(one: RunFolder, other: RunFolder) -> None:
    states = [read_checkpoint(folder.backbone)["state_dict"] for folder in (one, other)]
    names = [name for name in states[0] if "running_" in name]
    assert len(names) == 40  # the 20 norms of a ResNet-18
    for name in names:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-5)


def test_a_backbone_has_the_running_statistics_of_all_processes(
    ranks: Sequence[dict[str, Any]], place: Path, alone: RunFolder
) -> None:
    assert_same_statistics(RunFolder(place / "plain"), alone)


def test_a_checkpoint_of_two_processes_is_adopted_with_the_running_statistics_of_both(
    ranks: Sequence[dict[str, Any]], place: Path
) -> None:
    """A checkpoint's model has rank 0's statistics; the backbone of a finished training has those of all ranks."""
    folder = RunFolder(place / "plain")
    exported = read_checkpoint(folder.backbone)["state_dict"]
    adopted = read_foreign(checkpoints(folder.checkpoints)[0], "resnet18", "encoder_q", width=4).state
    assert adopted.keys() == exported.keys()
    assert [name for name, value in adopted.items() if not torch.equal(value, exported[name])] == []


def test_one_process_goes_on_with_the_running_statistics_of_two(
    ranks: Sequence[dict[str, Any]], place: Path, alone: RunFolder, tmp_path: Path
) -> None:
    folder = copied(RunFolder(place / "plain"), tmp_path / "plain")
    folder.backbone.unlink()
    checkpoints(folder.checkpoints)[0].unlink()
    pretrain(PLAIN, folder, CPU)
    assert_same_statistics(folder, alone)


def test_one_process_joins_nothing_and_leaves_the_environment_alone() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    before = dict(environ)
    assert initialise("cpu", environ) == CPU
    assert environ == before
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"machine.device=cuda, but torch sees no GPU; mend: machine.device=auto"):
        initialise("cuda", {})
    assert initialise("auto", {}) == CPU
