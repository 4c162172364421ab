import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_samples import commands
from image_samples import bad_image, make_imagenet_root, write_image
from json_rows import read_rows
from training_samples import (
    EPOCH,
    OURS,
    TINY,
    Ended,
    copied,
    files_below,
    refusal,
    refused,
    salmask,
    tiny,
    with_random_backbone,
    words,
)

from baselines import METHODS
from repro.backbones.backbone import save_backbone
from repro.backbones.checkpoint import read_checkpoint
from repro.data.catalogue import DATASETS
from repro.data.imagenet import class_list
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.scenes.dataset import Scenes


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def pretrain(out: Path, changes: dict[str, Any] | None = None, method: str = "mocov2") -> tuple[str, ...]:
    return ("pretrain", method, "--out", str(out), *words(changes))


def assert_nothing_is_written(out: Path) -> None:
    """No run was begun: its folder is not there."""
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (
            ["moco"],
            "unknown method 'moco'; mend: did you mean 'mocov2'? "
            f"{len(METHODS)} are known; `salmask methods` lists them",
        ),
        (
            ["mocov2", "optimisation.epochs=3"],
            "unknown key 'optimisation.epochs'; mend: did you mean 'optimization.epochs'?",
        ),
        (
            ["mocov2", "epochs=10"],
            "unknown key 'epochs'; mend: did you mean 'optimization.epochs', 'probe.epochs' or 'finetune.epochs'?",
        ),
        (["mocov2", "lrr=1"], "unknown key 'lrr'; mend: did you mean 'optimization.lr', '"),
        (["mocov2", "prob.epochs=10"], "unknown key 'prob.epochs'; mend: did you mean 'probe.epochs'?"),
        (["mocov2", "knn.k=5"], "unknown key 'knn.k'; mend: the keys of knn are knn.neighbours, knn.temperature"),
        (["mocov2", "moco.queu=64"], "unknown key 'moco.queu'; mend: did you mean 'moco.queue'?"),
        (["mocov2", "optimization.epochs=many"], "optimization.epochs=many is not a whole number"),
        (
            ["mocov2", "optimization=3"],
            "'optimization' is a section; mend: set its keys, for example optimization.epochs",
        ),
        (["mocov2", "masking.strategy=blur"], "masking.strategy=blur is unknown; mend: one of none, high_pass, "),
        (["mocov2", "seed"], "'seed' is not a setting; mend: write key.sub=value"),
        (["mocov2", "optimization.batch=48"], "moco.queue=65536 is not a multiple of optimization.batch=48; mend: "),
        (["mocov2", "moco.bn_splits=3"], "moco.bn_splits=3 does not divide optimization.batch=128; mend: "),
        (["mocov2", "machine.device=tpu"], "machine.device=tpu is unknown; mend: one of auto, cpu, cuda"),
        (["mocov2", "--config", "none.yaml"], "config file none.yaml does not exist; mend: name an existing file"),
        (
            [OURS, "localizer.network=checkpoint", "localizer.weights=none.pth"],
            "localizer.weights=none.pth cannot be read (No such file or directory); mend: the backbone.pth of a ",
        ),
        ([OURS, "localizer.network=checkpoint"], "localizer.network=checkpoint without a file; mend: localizer.weigh"),
    ],
)
def test_settings_that_cannot_be_right_make_nothing(out: Path, arguments: list[str], phrase: str) -> None:
    line = refused("pretrain", *arguments, "--out", str(out))
    assert phrase in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        (
            {"data.dataset": "imagenet-100"},
            "unknown data set 'imagenet-100'; mend: did you mean 'imagenet100'? known: ",
        ),
        ({"data.dataset": "folder"}, "no root set for data set 'folder'; mend: give --root DIR"),
        ({"data.dataset": "folder", "machine.data_root": "/none"}, "/none: No such file or directory"),
        ({"optimization.batch": 32}, "a batch of 32 is larger than the data (20 images); mend: a smaller"),
        (
            {"encoder.arch": "resnet19"},
            "encoder.arch=resnet19 is not a ResNet of torchvision; mend: did you mean 'resnet1",
        ),
        ({"encoder.arch": "vgg11"}, "encoder.arch=vgg11 is not a ResNet of torchvision; mend: one of "),
        ({"data.scenes.size": 8}, "8"),
        ({"optimization.precision": "fp16"}, "optimization.precision=fp16 needs a GPU; mend: "),
        pytest.param(
            {"machine.device": "cuda"},
            "machine.device=cuda, but torch sees no GPU; mend: ",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_only_the_data_or_the_machine_can_refuse_begins_no_run(
    out: Path, changes: dict[str, Any], phrase: str
) -> None:
    line = refused(*pretrain(out, changes))
    assert phrase in line
    if changes.get("machine.device") != "cuda":
        assert_nothing_is_written(out)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"data.crop": 50}, "data.crop=50 is not divisible by the 4×4 grid; mend: data.crop="),
        ({"localizer.network": "resnet51"}, "localizer.network=resnet51 is unknown; mend: did you mean 'resnet50'"),
    ],
)
def test_a_localizer_that_does_not_fit_begins_no_run(out: Path, changes: dict[str, Any], phrase: str) -> None:
    line = refused(*pretrain(out, changes, OURS))
    assert phrase in line
    assert_nothing_is_written(out)


def test_an_empty_data_root_and_missing_classes_are_named(out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    changes = {"data.dataset": "imagenet100", "machine.data_root": tmp_path / "empty"}
    assert "the folder is empty (root of imagenet100" in refused(*pretrain(out / "1", changes))

    root = make_imagenet_root(tmp_path / "imagenet")
    first, second = class_list()[3], class_list()[40]
    shutil.rmtree(root / "train" / first)
    shutil.rmtree(root / "train" / second)
    line = refused(*pretrain(out / "2", {"data.dataset": "imagenet100"}), "--root", str(root))
    assert f"2 ({first}, {second}) of 100 class folders missing" in line
    assert_nothing_is_written(out / "2")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Fifteen good images; the test adds the sixteenth, which completes a batch."""
    for split in ("train", "val"):
        for index in range(15):
            write_image(tmp_path / "data" / split / f"class{index % 2}" / f"{index:02}.png", index, size=(40, 40))
    return tmp_path / "data"


def on_folder(images: Path, **changes: Any) -> dict[str, Any]:
    return {"data.dataset": "folder", "machine.data_root": images, "optimization.epochs": 1, **changes}


@pytest.mark.parametrize("what", ["empty", "text", "truncated", "corrupt-png", "1x1"])
def test_a_bad_image_met_while_training_is_named(out: Path, images: Path, what: str) -> None:
    bad = bad_image(images / "train" / "class1", what)
    run = on_folder(images, **{"optimization.batch": 16, "moco.queue": 16})
    line = refused(*pretrain(out, run))
    assert line.startswith(f"{bad}: ")
    assert "replace or delete it" in line
    (folder,) = (path.parent for path in out.rglob("status.json"))
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["error"]) == ("failed", line)
    below = {name for name in files_below(folder) if not name.startswith("logs/")}
    told = {"run.yaml", "provenance.json", "status.json", "usage/pretrain.0.json"}
    assert below <= {".lock", *told, "gallery/masks.png"}


@pytest.mark.end_to_end
def test_a_bad_image_in_a_loaders_process_is_one_line_on_a_terminal_too(out: Path, images: Path) -> None:
    bad = bad_image(images / "train" / "class1", "truncated")
    changes = on_folder(images, **{"optimization.batch": 16, "moco.queue": 16, "machine.workers": 1})
    command = [sys.executable, "-m", "repro.cli", *pretrain(out, changes)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    # Messages before the training begins do not belong to its end.
    *_, caution, error = (line for line in ended.stderr.splitlines(keepends=True) if " … (" not in line)
    assert caution.startswith("moco.queue=16 is 100% of the 16 training images")
    line = refusal(Ended(ended.returncode, ended.stdout, error))
    assert line.startswith(f"{bad}: ")
    status = json.loads(next(out.rglob("status.json")).read_text())
    assert status["error"] == line


def test_a_training_that_diverges_names_the_step_and_can_go_on(out: Path) -> None:
    ended = salmask(*pretrain(out, {"optimization.lr": 1e30}))
    assert ended.code == 2
    line = ended.err.splitlines()[-1]
    assert line.startswith("salmask: the gradient or loss of step ")
    assert ended.err.count("salmask: ") == 1
    assert "Traceback" not in ended.err
    folder = next(path.parent for path in out.rglob("run.yaml"))
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert not (folder / "backbone.pth").exists()


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(*pretrain(tmp_path / "file"))
    assert line.startswith("cannot write to ")
    assert "mend: choose another --out" in line
    assert files_below(tmp_path) == {"file"}


def test_the_second_process_on_a_run_is_refused_and_harms_nothing(out: Path) -> None:
    folder = RunFolder.of(tiny(), out)
    with folder.attempt("pretrain"):
        before = folder.status()
        line = refused(*pretrain(out))
        assert line.startswith(f"{folder.path} is in use by another process; mend: wait for process {os.getpid()} on ")
        assert folder.status() == before
        assert files_below(folder.path) == {".lock", "status.json"}


def test_the_checkpoint_of_another_architecture_is_refused_and_kept(undisturbed: RunFolder, out: Path) -> None:
    run = tiny(changes={"encoder.dim": 8})
    target = RunFolder.of(run, out).checkpoints / "step_00000005.pth"
    target.parent.mkdir(parents=True)
    content = read_checkpoint(checkpoints(undisturbed.checkpoints)[0])
    torch.save(content | {"run_id": run.id}, target)
    ended = salmask(*pretrain(out, {"encoder.dim": 8}))
    assert "is of another architecture: " in refusal(ended)
    assert files_below(target.parent) == {target.name}


def test_probe_refuses_what_is_no_finished_run(tmp_path: Path) -> None:
    assert "is not a run folder: it has no run.yaml" in refused("probe", str(tmp_path))
    run = tiny()
    folder = RunFolder.of(run, tmp_path / "runs")
    folder.prepare(run)
    assert "its pretraining is not finished; mend: salmask pretrain first" in refused("probe", str(folder.path))
    other = {"arch": "resnet34", "input_filter": "none", "run_id": run.id}
    save_backbone(folder.backbone, {}, **other)
    assert "holds a resnet34, not a resnet18" in refused("probe", str(folder.path))
    line = refused("probe", str(folder.path), "data.crop=64")
    assert line.startswith("only settings of machine and of evaluations (probe, logistic, knn, finetune, detection)")
    folder.backbone.write_bytes(b"torn")
    assert "backbone.pth cannot be read" in refused("probe", str(folder.path))
    assert files_below(folder.path) == {"run.yaml", "backbone.pth"}


@pytest.mark.parametrize("name", commands())
def test_every_help_has_an_example_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = salmask(*name.split(), "--help")
    assert ended.code == 0
    assert f"Example: salmask {name}" in ended.out


def test_a_group_of_commands_has_an_example_too() -> None:
    for name in ("cluster", "data", "bench"):
        assert f"Example: salmask {name} " in salmask(name, "--help").out


def test_the_help_breaks_no_line_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (status,) = [line for line in salmask("--help").out.splitlines() if "Exit status: 0 done" in line]
    assert "Slurm had no room for all" in status
    monkeypatch.setenv("COLUMNS", "60")
    assert "--budget-gpu-hours" in salmask("sweep", "--help").out
    assert "optimization.epochs=10" in salmask("sweep", "--help").out


@pytest.mark.parametrize("name", ["pretrain", "probe", "sweep", "table", "data list", "doctor"])
def test_the_commands_of_the_readme_are_there(name: str) -> None:
    assert name in commands()


def test_json_of_a_training_that_logs_is_all_of_standard_output(out: Path) -> None:
    ended = salmask(*pretrain(out, {"optimization.epochs": 1}), "--json")
    assert ended.code == 0
    content = json.loads(ended.out)
    folder = RunFolder.of(tiny(changes={"optimization.epochs": 1}), out)
    assert content == {"run": folder.load().id, "folder": str(folder.path), "backbone": str(folder.backbone)}
    assert folder.backbone.exists()
    assert ended.err.splitlines()[-1].startswith(f"pretrain: {EPOCH} steps, ")
    assert not ended.out.count("steps")


def test_a_finished_run_is_left_as_it_is(undisturbed: RunFolder, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copied(undisturbed, out / tiny(OURS).folder)
    before = folder.backbone.stat().st_mtime_ns, folder.metrics.read_text(), folder.provenance.read_text()
    ended = salmask(*pretrain(out, method=OURS), "--json")
    assert json.loads(ended.out)["run"] == tiny(OURS).id
    assert f"{folder.path} is pretrained already" in caplog.text
    assert (folder.backbone.stat().st_mtime_ns, folder.metrics.read_text(), folder.provenance.read_text()) == before


def test_probe_prints_the_rows_it_records_and_only_reads_them_again(tmp_path: Path) -> None:
    folder = with_random_backbone(tiny(), tmp_path)
    ended = salmask("probe", str(folder.path), "probe.epochs=1", "--json")
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)
    assert [row["metric"] for row in rows] == ["top1", "top5", "mean_per_class", "top1_best"]
    assert {row["protocol"] for row in rows} == {"linear-moco-v1[epochs=1,batch=16]"}
    assert read_rows(folder.results) == rows
    again = salmask("probe", str(folder.path), "probe.epochs=1")
    assert again.err == ""
    assert [line.split()[0] for line in again.out.splitlines()] == ["top1", "top5", "mean_per_class", "top1_best"]
    assert f"{rows[0]['value']:.2f} %   linear-moco-v1[epochs=1,batch=16], scenes val" in again.out
    assert len(folder.results.read_text().splitlines()) == 4
    status = folder.status()
    assert status is not None
    assert (status.state, status.task, status.step, status.steps) == ("done", "linear", 2, 2)


def test_lists_and_plans_are_json_where_asked(tmp_path: Path) -> None:
    assert [row["name"] for row in json.loads(salmask("data", "list", "--json").out)] == list(DATASETS)
    plan = json.loads(salmask("sweep", "demo", "--plan", "--out", str(tmp_path / "demo"), "--json").out)
    assert [row["done"] for row in plan["jobs"]] == [False] * 6
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_benches_are_json_where_asked() -> None:
    assert json.loads(salmask("bench", "masking", "--batch", "2", "--size", "28", "--json").out)
    norms = json.loads(salmask("bench", "norm", "--batch", "8", "--size", "32", "--json").out)
    assert [row["layout"] for row in norms] == ["channels last", "contiguous"]
    assert all(row[ratio] > 0 for row in norms for ratio in ("ours ×", "dealt out ×"))
    scenes = json.loads(salmask("bench", "scenes", "--size", "64", "--json").out)
    assert scenes["draw / read"] > 1


def test_scenes_of_the_tiny_runs_are_what_their_settings_say() -> None:
    scenes = Scenes("train", count=20, classes=8, size=64, seed=0)
    assert (len(scenes), len(scenes.classes)) == (TINY["data.scenes.train_count"], TINY["data.scenes.classes"])
