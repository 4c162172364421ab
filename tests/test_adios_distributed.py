"""ADIOS in two processes: equal on both ranks, and one process on the joint batch where batch norm spans them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adios_samples import ENCODERS, FRAMEWORKS, B, adios_run, make_adios, make_views, small_encoders, with_optimizers
from torch import Tensor, nn
from training_samples import STEPS, assert_same, make_training, metrics, newest

from baselines.adios import Adios
from repro.masking.views import Views
from repro.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_encoder")

LR = 0.05


def two_steps(model: Adios, views: Sequence[Views]) -> list[dict[str, Tensor]]:
    optimizers = with_optimizers(model, LR)
    return [model.train_step(each, optimizers) for each in views]


def one_of_two(number: int, store: str, place: str) -> None:
    """What each of two processes does: two steps of a model, and a whole training."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    half = slice(number * B // 2, (number + 1) * B // 2)
    outcome: dict[str, Any] = {}
    with small_encoders():
        for framework in FRAMEWORKS:
            for single in (True, False):
                model = make_adios(framework, single=single, alpha_entropy=0.1)
                model.distribute(lambda part: nn.parallel.DistributedDataParallel(part, broadcast_buffers=False))
                mine = [Views(v.query[half], v.key[half]) for v in (make_views(1), make_views(2))]
                logged = two_steps(model, mine)
                outcome[f"{framework} {single}"] = {"logged": logged, "model": model.state_dict()}
        for framework in FRAMEWORKS:
            training = make_training(adios_run(framework), RunFolder(Path(place) / framework))
            training.run()
            outcome[f"{framework} run"] = training.model.state_dict()
    torch.save(outcome, Path(place) / f"{number}.pth")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    place = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_of_two, (str(place / "store"), str(place)), nprocs=2)
    return place, [torch.load(place / f"{number}.pth", weights_only=False) for number in range(2)]


def learned(model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without running statistics, which are each rank's own on MoCo."""
    return {n: x for n, x in model.items() if isinstance(x, Tensor) and "running" not in n and "tracked" not in n}


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_players_are_equal_on_both_ranks(ranks: Any, framework: str, single: bool) -> None:
    one, other = (outcome[f"{framework} {single}"]["model"] for outcome in ranks[1])
    assert_same(learned(one), learned(other))
    fresh = make_adios(framework).state_dict()
    assert set(one) == set(fresh)
    for name in (f"contrast.substrate.{ENCODERS[framework]}.0.weight", "occlusion.head.weight"):
        assert not torch.equal(one[name], fresh[name])


@pytest.mark.parametrize("single", [True, False])
def test_two_processes_are_one_on_the_joint_batch(ranks: Any, single: bool) -> None:
    """SimCLR's batch norm and negatives span the ranks, so that all of ADIOS on it must too."""
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
        moved, off = (tensor - fresh[name]).norm(), (tensor - outcomes[0]["model"][name]).norm()
        assert off <= 1e-2 * moved + 1e-6, (name, float(off), float(moved))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_of_two_processes_ends_alike_on_both(ranks: Any, framework: str) -> None:
    place, outcomes = ranks
    one, other = (outcome[f"{framework} run"] for outcome in outcomes)
    assert_same(learned(one), learned(other))
    content = newest(RunFolder(place / framework).checkpoints)
    assert content["world_size"] == 2
    assert_same(learned(content["model"]), learned(one))
    assert len(metrics(RunFolder(place / framework))) == STEPS


def test_a_run_of_two_processes_is_the_run_of_one(ranks: Any, tmp_path: Path) -> None:
    alone = RunFolder(tmp_path)
    make_training(adios_run("simclr"), alone).run()
    for ours, theirs in zip(metrics(RunFolder(ranks[0] / "simclr")), metrics(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.01)
