"""ADIOS in two processes: equal on both ranks, and to one process on the joint batch if batch norm spans them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adios_samples import ENCODERS, FRAMEWORKS, B, adios_run, make_adios, make_views, with_optimizers
from contrastive_samples import small_encoders
from json_rows import read_rows
from torch import Tensor, nn
from training_samples import STEPS, assert_same, make_training, newest, on_two_processes

from baselines.adios import Adios
from repro.masking.views import Views
from repro.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_encoder")

LR = 0.05


def two_steps(model: Adios, views: Sequence[Views]) -> list[dict[str, Tensor]]:
    optimizers = with_optimizers(model, LR)
    return [model.train_step(batch, optimizers) for batch in views]


def run_rank(number: int, folder: Path) -> dict[str, Any]:
    """What each of two processes computes: two steps of a model, and a whole training."""
    half = slice(number * B // 2, (number + 1) * B // 2)
    outcome: dict[str, Any] = {}
    with small_encoders():
        for framework in FRAMEWORKS:
            for single in (True, False):
                model = make_adios(framework, single=single, alpha_entropy=0.1)
                model.distribute(lambda part: nn.parallel.DistributedDataParallel(part, broadcast_buffers=False))
                halves = [Views(views.query[half], views.key[half]) for views in (make_views(1), make_views(2))]
                logged = two_steps(model, halves)
                outcome[f"{framework} {single}"] = {"logged": logged, "model": model.state_dict()}
        for framework in FRAMEWORKS:
            training = make_training(adios_run(framework), RunFolder(folder / framework))
            training.run()
            outcome[f"{framework} run"] = training.model.state_dict()
    return outcome


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_two_processes(run_rank, folder)


def learned(model: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state without running statistics, which each rank has of its own with MoCo."""
    return {n: x for n, x in model.items() if isinstance(x, Tensor) and "running" not in n and "tracked" not in n}


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_players_are_equal_on_both_ranks(ranks: Any, framework: str, single: bool) -> None:
    first, second = (outcome[f"{framework} {single}"]["model"] for outcome in ranks[1])
    assert_same(learned(first), learned(second))
    fresh = make_adios(framework).state_dict()
    assert set(first) == set(fresh)
    for name in (f"contrast.substrate.{ENCODERS[framework]}.0.weight", "occlusion.head.weight"):
        assert not torch.equal(first[name], fresh[name])


@pytest.mark.parametrize("single", [True, False])
def test_two_processes_are_one_on_the_joint_batch(ranks: Any, single: bool) -> None:
    """SimCLR's batch norm and negatives span the ranks, so all of ADIOS on it must do so, too."""
    model = make_adios("simclr", single=single, alpha_entropy=0.1)
    logged = two_steps(model, [make_views(1), make_views(2)])
    outcomes = [outcome[f"simclr {single}"] for outcome in ranks[1]]
    for step, alone in enumerate(logged):
        halves = [outcome["logged"][step] for outcome in outcomes]
        torch.testing.assert_close(halves[0]["loss"], alone["loss"], rtol=1e-4, atol=1e-4)
        for name in ("occlusion_loss", "sparsity", "entropy", "mask_share_3"):
            mean = (halves[0][name] + halves[1][name]) / 2
            torch.testing.assert_close(mean, alone[name], rtol=1e-3, atol=1e-3)
    fresh = make_adios("simclr").state_dict()
    for name, tensor in learned(model.state_dict()).items():
        change, error = (tensor - fresh[name]).norm(), (tensor - outcomes[0]["model"][name]).norm()
        assert error <= 1e-2 * change + 1e-6, (name, float(error), float(change))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_of_two_processes_ends_alike_on_both(ranks: Any, framework: str) -> None:
    folder, outcomes = ranks
    first, second = (outcome[f"{framework} run"] for outcome in outcomes)
    assert_same(learned(first), learned(second))
    content = newest(RunFolder(folder / framework).checkpoints)
    assert content["world_size"] == 2
    assert_same(learned(content["model"]), learned(first))
    assert len(read_rows(RunFolder(folder / framework).metrics)) == STEPS


def test_a_run_of_two_processes_is_the_run_of_one(ranks: Any, tmp_path: Path) -> None:
    alone = RunFolder(tmp_path)
    make_training(adios_run("simclr"), alone).run()
    for ours, theirs in zip(read_rows(RunFolder(ranks[0] / "simclr").metrics), read_rows(alone.metrics), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.01)
