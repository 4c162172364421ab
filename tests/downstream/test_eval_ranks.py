"""Evaluations by several processes: one answer, and a batch that does not depend on their number."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from json_rows import read_rows
from torch import Tensor, nn
from training_samples import CPU, on_two_processes, salmask, tiny, with_random_backbone

from downstream import commands, epoch_scores, finetune, linear
from downstream.commands import table_of
from downstream.finetune import FineTuned, FineTuning, ScoreNetwork
from downstream.measurement import Target
from downstream.partitions import standard
from repro.backbones.backbone import load_backbone
from repro.command_line.terminal import is_first_process
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.settings.detection import COCO, VOC
from repro.settings.run import Run
from repro.training.batches import loading
from repro.training.pretraining import open_data
from repro.training.runner import Training

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "repro.cli")


def knn(folder: RunFolder) -> tuple[str, ...]:
    return "eval", str(folder.path), "--task", "knn", "knn.neighbours=[5]"


def printed(rank: int, place: Path) -> dict[str, str]:
    (run,) = place.glob("runs/*/*")
    return {"out": salmask(*knn(RunFolder(run))).out}


def test_two_processes_print_one_answer(folder: RunFolder, tmp_path: Path) -> None:
    first, second = on_two_processes(printed, tmp_path)
    assert (first["out"], second["out"]) == (salmask(*knn(folder)).out, "")


@pytest.mark.end_to_end
def test_torchrun_prints_the_rows_alone(folder: RunFolder) -> None:
    """Some versions of gloo print to stdout, too."""
    ended = subprocess.run([*TORCHRUN, *knn(folder), "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    assert [row["metric"] for row in rows] == ["top1", "top5", "mean_per_class"]
    assert read_rows(folder.results) == rows


def test_the_first_process_adopts_weights_and_the_others_take_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each process used to adopt into one folder, whose provenance then had as many attempts, or lost one."""
    folder = with_random_backbone(tiny(), tmp_path)
    adopted: list[dict[str, Any]] = []

    def adopt(**options: Any) -> tuple[Run, RunFolder]:
        adopted.append(options)
        return folder.load(), folder

    monkeypatch.setattr("downstream.adoption.adopt", adopt)
    assert commands._adopted(tiny(), out=tmp_path, roots={}, path=Path("random"))[0] == tiny()
    assert [(options["path"], options["out"]) for options in adopted] == [(Path("random"), tmp_path)]
    # The decision on every other rank.
    monkeypatch.setattr("repro.processes.distributed.decided_by_first", lambda _: tiny())
    assert commands._adopted(tiny(), out=tmp_path, roots={}, path=Path("random"))[1].path == folder.path
    assert len(adopted) == 1


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
        ({"RANK": "0", "SLURM_PROCID": "3"}, True),
    ],
)
def test_the_first_process_is_known_without_a_group(
    environ: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


def test_the_next_command_shows_the_table_that_has_the_numbers() -> None:
    assert [table_of(tasks) for tasks in (["linear"], ["knn", VOC], [VOC], [VOC, COCO])] == [
        "table1",
        "table1",
        "table2",
        "table2",
    ]


def on_processes(monkeypatch: pytest.MonkeyPatch, count: int, batch: int, out: Path, task: str = "semi-1") -> Training:
    """A fine-tuning on eight labelled images, as one of `count` processes builds it."""
    run = tiny(changes={"finetune.epochs": 1, "finetune.batch": batch})
    folder = with_random_backbone(run, out)
    for module in (finetune, loading):
        monkeypatch.setattr(module, "world_size", lambda: count)
    target = Target("scenes", None, run.data.scenes)
    partition, fine_tuning = standard(target, seed=0), FineTuning(task)
    backbone, labelled = load_backbone(folder.backbone), fine_tuning.labelled(partition.train)
    place = folder.path / "finetune"
    return fine_tuning.build_training(run, folder, place, backbone, target, labelled, partition.scored, CPU)


@pytest.mark.parametrize(("count", "batch", "expected"), [(1, 256, 8), (2, 256, 8), (4, 256, 8), (2, 6, 6), (1, 5, 5)])
def test_the_batch_is_the_same_on_any_number_of_processes(
    count: int, batch: int, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = on_processes(monkeypatch, count, batch, tmp_path)
    assert training.batch == expected
    assert training.optimizers["main"].param_groups[0]["lr"] == pytest.approx(0.05 * expected / 256)


@pytest.mark.parametrize(
    ("count", "batch", "of", "mend"),
    [
        (3, 256, 8, "finetune.batch=6, or fewer processes"),
        (2, 5, 5, "finetune.batch=4, or fewer processes"),
        (16, 256, 8, "fewer processes"),
    ],
)
def test_a_batch_that_processes_cannot_share_is_refused(
    count: int, batch: int, of: int, mend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    what = f"semi-1 has 8 labelled images and a batch of {of}, which {count} processes cannot share evenly"
    with pytest.raises(UserError) as refusal:
        on_processes(monkeypatch, count, batch, tmp_path)
    assert (refusal.value.what, refusal.value.mend) == (what, mend)


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_a_training_that_processes_cannot_share_is_refused_before_anything_is_computed(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be refused after earlier tasks, and after the features of all scored images."""
    for module in (finetune, loading):
        monkeypatch.setattr(module, "world_size", lambda: 3)
    run = tiny(changes={"probe.batch": 16, "finetune.batch": 16})
    check = linear.check if task == "linear" else finetune.FINETUNE.check
    with pytest.raises(UserError, match=r"a batch of 16,? .* 3 processes"):
        check(run, Target("scenes", None, run.data.scenes), None)


def scores_of_rank(number: int, place: Path) -> dict[str, Any]:
    """The scores of a finished training, whose file the second process does not see yet; and logits of 23 images."""
    metrics = place / f"view{number}" / "metrics.jsonl"
    if number == 0:
        metrics.parent.mkdir()
        metrics.write_text('{"epoch": 1, "step": 2, "top1": 50.0}\n')
    return {"scores": epoch_scores.read_scores(metrics, 1), "logits": logits_of_scored(place)}


def logits_of_scored(place: Path) -> Tensor:
    run = tiny(changes={"data.scenes.val_count": 23})
    folder = RunFolder.of(run, place)
    model = FineTuned(load_backbone(folder.backbone), 8)
    nn.init.constant_(model.network.fc.weight, 0.0)
    model.network.fc.weight.data[:, :8] = torch.eye(8)  # the drawn weights differ from process to process
    return ScoreNetwork(open_data(run, "val"), 32, 6, 0).logits(model)


def test_all_ranks_have_the_scores_that_the_first_one_reads_and_every_images_logits(tmp_path: Path) -> None:
    with_random_backbone(tiny(changes={"data.scenes.val_count": 23}), tmp_path)
    outcomes = on_two_processes(scores_of_rank, tmp_path)
    assert [outcome["scores"][0]["top1"] for outcome in outcomes] == [50.0, 50.0]
    alone = logits_of_scored(tmp_path)
    assert alone.shape == (23, 8)
    apart = float(torch.pdist(alone).min())  # so that an order can be told
    for outcome in outcomes:
        assert float((outcome["logits"] - alone).norm(dim=1).max()) < 0.01 * apart
