import json
import pkgutil
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from json_rows import read_rows
from torch import Tensor
from torchvision.models import get_model
from training_samples import CPU, OURS, files_below, refused, salmask, tiny, with_random_backbone
from transfer_samples import make_caltech, make_flowers

from downstream.commands import TABLE1, evaluations
from downstream.tasks import TASKS, evaluate
from repro.backbones.backbone import load_backbone, save_backbone
from repro.backbones.weights import weights_digest
from repro.errors import UserError
from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.settings.run import Run

QUICK = ("probe.epochs=1", "logistic.values=2", "knn.neighbours=[5]")
SMALL = {"data.dataset": "scenes", "machine.workers": 0, "machine.device": "cpu"}

pytestmark = pytest.mark.usefixtures("miniatures")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "caltech101").mkdir()
    (root / "flowers102").mkdir()
    make_caltech(root / "caltech101")
    make_flowers(root / "flowers102")
    return root


# Names


def test_every_task_has_protocols_and_somebody_who_measures() -> None:
    assert TASKS.keys() == PROTOCOLS.keys()
    assert all(callable(pkgutil.resolve_name(name).measure) for name in TASKS.values())
    run = Run()
    for task, protocols in PROTOCOLS.items():
        of_version = "-v2" if task == "logistic" else "-v1"
        assert all(of_version in protocol.version for protocol in protocols(run, "imagenet100")), task
    assert Evaluation.parse("linear", run).protocols(run) == ("linear-moco-v1",)
    assert Evaluation.parse("linear@caltech101", run).protocols(run) == ("linear-caltech-30-v1",)
    assert Evaluation.parse("linear@flowers102", run).protocols(run) == ("linear-flowers-80-10-10-v1",)
    assert Evaluation.parse("logistic@flowers102", run).protocols(run) == ("logreg-v2",)
    assert Evaluation.parse("semi-1", run).protocols(run) == ("semi-1pct-v1",)


def test_a_name_is_read_back(folder: RunFolder) -> None:
    run = folder.load()
    for name in ("linear", "logistic@caltech101", "knn@flowers102"):
        assert Evaluation.parse(name, run).name(run) == name
    assert Evaluation.parse("linear@scenes", run).name(run) == "linear"


def test_table1_is_every_number_of_it_by_each_protocol() -> None:
    names = [evaluation.name(Run()) for evaluation in evaluations("table1", "", Run())]
    assert names == [name.replace("linear@imagenet100", "linear") for name in TABLE1]
    on_flowers = evaluations("linear, knn,linear", "flowers102", Run())
    assert [evaluation.name(Run()) for evaluation in on_flowers] == ["linear@flowers102", "knn@flowers102"]


# The command


def test_eval_prints_records_and_then_only_reads(folder: RunFolder) -> None:
    arguments = ("eval", str(folder.path), *QUICK, "--task", "linear,logistic,knn")
    command = salmask(*arguments, "--json")
    assert command.code == 0, command.err
    rows = json.loads(command.out)
    assert read_rows(folder.results) == rows
    assert list(dict.fromkeys((row["task"], row["protocol"]) for row in rows)) == [
        ("linear", "linear-moco-v1[epochs=1,batch=16]"),
        ("logistic", "logreg-v2[values=2]"),
        ("knn", "knn-v1[k=5]"),
    ]
    folder.backbone.unlink()  # no longer needed
    again = salmask(*arguments)
    assert again.code == 0
    assert again.err == ""
    assert [line.split()[0] for line in again.out.splitlines()] == [row["metric"] for row in rows]
    assert folder.results.read_text().count("\n") == len(rows)
    # One pass over each split serves all three tasks.
    assert len(list(folder.path.glob("features/*.npy"))) == 2


def test_probe_is_short_for_the_linear_task(folder: RunFolder) -> None:
    assert salmask("probe", str(folder.path), "probe.epochs=1").code == 0
    before = folder.results.read_text()
    command = salmask("eval", str(folder.path), "probe.epochs=1")
    assert command.code == 0
    assert folder.results.read_text() == before
    assert "linear-moco-v1[epochs=1,batch=16], scenes val" in command.out


@pytest.mark.end_to_end
def test_transfer_data_are_found_by_name_and_make_rows_of_their_own(
    folder: RunFolder, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALMASK_DATA", str(roots))
    settings = ("probe.epochs=1", "probe.splits=2", "logistic.values=2", "logistic.splits=1")
    tasks = "linear@caltech101,linear@flowers102,logistic@caltech101,logistic@flowers102"
    command = salmask("eval", str(folder.path), *settings, "--task", tasks, "--json")
    assert command.code == 0, command.err
    first_rows = {(row["task"], row["dataset"]): row for row in json.loads(command.out)[::-1]}
    assert {key: (row["protocol"], row["split"]) for key, row in first_rows.items()} == {
        ("linear", "caltech101"): ("linear-caltech-30-v1[epochs=1,batch=16,splits=2]", "test"),
        ("linear", "flowers102"): ("linear-flowers-80-10-10-v1[epochs=1,batch=16]", "val"),
        ("logistic", "caltech101"): ("logreg-v2[values=2,splits=1]", "test"),
        ("logistic", "flowers102"): ("logreg-v2[values=2]", "test"),
    }
    values = {(row.metric, row.task, row.dataset): row.value for row in read(folder.results)[0]}
    of_splits = [values[f"top1@split={seed}", "linear", "caltech101"] for seed in range(2)]
    assert values["top1", "linear", "caltech101"] == pytest.approx(sum(of_splits) / 2)
    # 24 of the 240 images are scored, as 818 of 8,189.
    assert values["top1", "linear", "flowers102"] * 24 / 100 == pytest.approx(
        round(values["top1", "linear", "flowers102"] * 24 / 100)
    )
    assert "@" not in salmask("eval", str(folder.path), *settings, "--task", tasks).out


def test_the_table_shows_the_paper_like_protocol_beside_the_published_number(
    folder: RunFolder, roots: Path, tmp_path: Path
) -> None:
    for task in ("linear", "logistic"):
        arguments = ("--task", task, "--data", "flowers102", "--root", str(roots / "flowers102"))
        assert salmask("eval", str(folder.path), *arguments, "probe.epochs=1", "logistic.values=2").code == 0
    top1 = next(row for row in read(folder.results)[0] if (row.task, row.metric) == ("linear", "top1"))
    table = salmask("table", "table1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "tables"))
    assert table.code == 0, table.err
    assert "Flowers-102 (TINY)" in table.out
    assert "88.39" in table.out  # MoCo v2's published number
    assert f"{top1.value:.2f} (1)" in table.out
    assert "protocol: linear-flowers-80-10-10-v1[epochs=1,batch=16]" in table.out
    assert "logreg-v2" not in table.out
    logistic_table = salmask(
        *("table", "table1", "--task", "logistic", "--metric", "mean_per_class"),
        *("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")),
    )
    assert logistic_table.code == 0, logistic_table.err
    assert "protocol: logreg-v2[values=2]" in logistic_table.out
    assert "linear-flowers" not in logistic_table.out
    assert "88.39" not in logistic_table.out


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "liner"], "unknown task 'liner'; mend: did you mean 'linear'?"),
        (["--task", "linear", "--data", "caltech"], "unknown data set 'caltech'; mend: did you mean 'caltech101'?"),
        (["--task", "knn@nowhere"], "unknown data set 'nowhere'"),
        (["--task", "table1", "--data", "scenes"], "--task table1 names its data itself; mend: leave"),
        (["--task", "knn,,linear"], "--task knn,,linear: a word of the list is empty; mend: one comma between"),
        (["--task", "knn@"], "'knn@' names no data set; mend: knn, or knn@DATASET"),
        (["--task", ","], "no task is named; mend: --task linear"),
        (["--task", "linear", "--data", "flowers102"], "no root set for data set 'flowers102'; mend: give --root DIR"),
        (["--task", "linear", "--data", "flowers102", "--root", "/none"], "/none: No such file or directory"),
        (["--task", "table1", "--root", "/data"], "is one folder for several data sets; mend: --root DATASET=DIR"),
        (["--task", "table1"], "no root set for data set 'imagenet100'"),
        (
            ["--root", "caltech=/data"],
            "--root caltech=/data: unknown data set 'caltech'; mend: did you mean 'caltech101'?",
        ),
        (["--root", "caltech101="], "--root caltech101= names no folder; mend"),
        (["--root", "caltech101=/data"], "--root caltech101=/data: no task of this command is on caltech101; mend: --"),
        (["--root", "/a", "--root", "scenes=/b"], "--root names two folders for scenes; mend: leave one of them out"),
        (["data.crop=64"], "only settings of machine and of evaluations (probe, logistic, knn, finetune, detection)"),
        (["knn.neighbors=[5]"], "unknown key 'knn.neighbors'; mend: did you mean 'knn.neighbours'?"),
        (["probe.lr_grid=[30,-1]"], "probe.lr_grid holds -1, which is out of range; mend: more than 0"),
        (["probe.lr_grid=[30,1,30.0]"], "probe.lr_grid holds 30 twice; mend: take one out"),
        (["knn.neighbours=[5,5]"], "knn.neighbours holds 5 twice; mend: take one out"),
        (["logistic.l2_low=10", "logistic.l2_high=1"], "logistic.l2_low=10 is larger than logistic.l2_high=1"),
    ],
)
def test_what_cannot_be_right_is_one_line_and_records_nothing(
    folder: RunFolder, arguments: list[str], message: str
) -> None:
    assert message in refused("eval", str(folder.path), *arguments)
    assert not folder.results.exists()
    assert not (folder.path / "probes").exists()


def test_a_later_task_that_cannot_begin_is_refused_before_the_first_one(folder: RunFolder) -> None:
    tasks = ("--task", "linear,knn", "probe.epochs=1", "knn.neighbours=[200]")
    assert "knn.neighbours=200, but scenes has only" in refused("eval", str(folder.path), *tasks)
    assert not folder.results.exists()


def test_what_was_measured_before_a_failure_is_shown(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("the disk is full", mend="make room")

    monkeypatch.setattr("downstream.logistic.measure", fail)
    command = salmask("eval", str(folder.path), *QUICK, "--task", "knn,logistic")
    assert command.code == 2
    assert "the disk is full" in command.err
    assert [line.split()[0] for line in command.out.splitlines()] == ["top1", "top5", "mean_per_class"]


def test_a_wrong_root_and_unequal_classes_are_named(folder: RunFolder, roots: Path, tmp_path: Path) -> None:
    line = refused("eval", str(folder.path), "--data", "caltech101", "--root", str(roots / "flowers102"))
    assert line.startswith(f"{roots / 'flowers102'}: holds no caltech101/101_ObjectCategories; mend: unpack with")
    for split, names in (("train", ("a", "b")), ("val", ("a",))):
        for name in names:
            (tmp_path / "own" / split / name).mkdir(parents=True)
            source = next((roots / "caltech101").rglob("*.jpg"))
            shutil.copy(source, tmp_path / "own" / split / name / "0.jpg")
    line = refused("eval", str(folder.path), "--data", "folder", "--root", str(tmp_path / "own"))
    assert "1 (b) of 2 class folders missing" in line


def test_a_run_must_be_named_finished_and_of_the_right_depth(folder: RunFolder, tmp_path: Path) -> None:
    assert "no run is named; mend: name its folder first" in refused("eval", "probe.epochs=1")
    assert "is not a run folder: it has no run.yaml" in refused("eval", str(tmp_path))
    state = get_model("resnet34", weights=None).state_dict()
    save_backbone(folder.backbone, state, arch="resnet34", input_filter="none", run_id=folder.load().id)
    for task in ("linear", "knn", "logistic", "semi-1"):
        line = refused("eval", str(folder.path), "--task", task, *QUICK)
        assert line.endswith("holds a resnet34, not a resnet18; mend: encoder.arch=resnet34")
    folder.backbone.unlink()
    assert "its pretraining is not finished; mend: salmask pretrain first" in refused("eval", str(folder.path))


# Checkpoints from elsewhere


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return get_model("resnet18", weights=None).state_dict()


def disguised(state: dict[str, Tensor], prefix: str, **others: Tensor) -> dict[str, Tensor]:
    return {**{prefix + name: tensor for name, tensor in state.items()}, **others}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def imported(path: Path, out: Path, *more: str) -> tuple[str, ...]:
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    scenes = ("data.crop=32", "data.scenes.size=64", "data.scenes.train_count=20", "data.scenes.val_count=24")
    options = ("--checkpoint", str(path), "--arch", "resnet18", "--out", str(out), *more)
    return ("eval", *settings, *scenes, *QUICK, *options)


@pytest.mark.slow
def test_the_recorded_command_makes_imported_weights_the_same_run_again(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """The command used to lack prefix, filter, crop and seed, and made another run, or none."""
    other = {name: 2 * tensor for name, tensor in state.items()}
    path = saved({**disguised(state, "student.net."), **disguised(other, "teacher.net.")}, tmp_path / "two.pth")
    options = (("--prefix", "teacher.net", "--high-pass"), ("seed=3", "encoder.width=16"))
    for number, (weights, more) in enumerate(zip((path, Path("random")), options, strict=True)):
        first, again = (tmp_path / f"{name}{number}" for name in ("first", "again"))
        made = salmask(*imported(weights, first, "--name", "elsewhere", "--task", "knn", *more))
        assert made.code == 0, made.err
        (provenance,) = first.rglob("provenance.json")
        *words, _ = shlex.split(json.loads(provenance.read_text())[0]["command"])[1:]
        repeated = salmask(*words, str(again), *QUICK, "--task", "knn")
        assert repeated.code == 0, repeated.err
        (provenance_again,) = again.rglob("provenance.json")
        assert provenance_again.parent.relative_to(again) == provenance.parent.relative_to(first)


@pytest.mark.end_to_end
def test_weights_from_elsewhere_become_a_run_that_tables_show_apart(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved({"state_dict": disguised(state, "module.encoder_q.")}, tmp_path / "moco.pth.tar")
    arguments = imported(path, tmp_path / "runs", "--name", "moco-official", "--task", "knn,linear")
    command = salmask(*arguments, "--json")
    assert command.code == 0, command.err
    rows = json.loads(command.out)
    (folder,) = (RunFolder(path.parent) for path in tmp_path.rglob("run.yaml"))
    run = folder.load()
    assert folder.path == tmp_path / "runs" / "moco-official" / f"s0-{run.id}"
    assert {(row["method"], row["framework"], row["fidelity"], row["run_id"]) for row in rows} == {
        ("moco-official", "external", "imported weights", run.id)
    }
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    assert run.imported.weights == weights_digest(bare)
    assert run.imported.origin == str(path)
    assert weights_digest(load_backbone(folder.backbone).network.state_dict()) == run.imported.weights
    (attempt,) = json.loads(folder.provenance.read_text())
    assert attempt["data"] == {"weights": run.imported.weights}
    assert attempt["command"].startswith(f"salmask eval --checkpoint {path} --arch resnet18 --name moco-official")
    # The same weights in another file make the same run; other weights make another.
    same_weights = saved(bare, tmp_path / "elsewhere.pth")
    again = salmask(*imported(same_weights, tmp_path / "runs", "--name", "moco-official", "--task", "knn,linear"))
    assert again.code == 0, again.err
    assert len(list(tmp_path.rglob("run.yaml"))) == 1
    assert folder.results.read_text().count("\n") == len(rows)
    other_weights = saved({**bare, "bn1.bias": bare["bn1.bias"] + 1}, tmp_path / "other.pth")
    assert salmask(*imported(other_weights, tmp_path / "runs", "--name", "moco-official", "--task", "knn")).code == 0
    assert len(list(tmp_path.rglob("run.yaml"))) == 2
    options = ("--name", "moco-official", "--task", "knn", "--high-pass")
    assert salmask(*imported(same_weights, tmp_path / "runs", *options)).code == 0
    filters = {load_backbone(path).input_filter for path in tmp_path.rglob("backbone.pth")}
    assert (len(list(tmp_path.rglob("run.yaml"))), filters) == (3, {"none", "high_pass"})


def test_a_bad_import_makes_nothing(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(state, tmp_path / "x.pth")
    out = tmp_path / "runs"
    line = refused(*imported(path, out, "--prefix", "a."))
    assert "holds no ResNet behind 'a.', but behind ''; mend: name one" in line
    assert "--name ../up cannot name a folder; mend: letters, digits and" in refused(
        *imported(path, out, "--name", "../up")
    )
    assert "only, 100 at most, a letter or a digit first" in refused(*imported(path, out, "--name", "x" * 101))
    for name in ("x" * 101, "…"):  # no option is wrong, so none is named
        line = refused(*imported(path.rename(tmp_path / f"{name}.pth"), out))
        assert line == f"the file name of {tmp_path / name}.pth cannot name a method; mend: --name NAME"
        (tmp_path / f"{name}.pth").rename(path)
    assert "none.pth does not exist" in refused(*imported(tmp_path / "none.pth", out))
    line = refused(*imported(path, out), "optimization.lr=1")
    assert line == "optimization.lr cannot be set for weights from elsewhere; mend: leave it out"
    assert "with --checkpoint no run can be named" in refused("eval", "somewhere", "--checkpoint", str(path))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "lineer", "--data", "scenes"], "unknown task 'lineer'; mend: did you mean 'linear'?"),
        (["--task", "knn@scene"], "unknown data set 'scene'; mend: did you mean 'scenes'?"),
        (["--task", "knn@flowers102"], "no root set for data set 'flowers102'; mend: give --root DIR"),
        (["--task", "knn", "knn.neighbours=[99]"], "knn.neighbours=99, but scenes has only 20 training images; mend: "),
        (["--task", "table1", "--root", "."], "--root . is one folder for several data sets; mend: --root DATASET=DIR"),
    ],
)
def test_weights_are_not_copied_for_what_cannot_be_evaluated(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in refused(*imported(Path("random"), tmp_path / "runs", *arguments))
    assert list(tmp_path.iterdir()) == []


def test_fresh_weights_are_called_so(tmp_path: Path) -> None:
    ended = salmask(*imported(Path("random"), tmp_path, "--task", "knn"))
    assert ended.err.splitlines()[0] == "random: fresh weights of resnet18"


def test_our_own_backbone_says_itself_what_it_was_trained_on(tmp_path: Path) -> None:
    folder = with_random_backbone(tiny(), tmp_path / "own", "high_pass")
    assert salmask(*imported(folder.backbone, tmp_path / "runs", "--task", "knn", "encoder.width=8")).code == 0
    (backbone,) = (tmp_path / "runs").rglob("backbone.pth")
    assert load_backbone(backbone).input_filter == "high_pass"
    assert backbone.parent.parent.name == "backbone"


def test_a_checkpoint_of_a_training_sees_what_its_run_was_trained_on(tmp_path: Path) -> None:
    """A checkpoint of a run on high-passed images used to be measured on plain ones, at chance, without a message."""
    folder = with_random_backbone(tiny(OURS), tmp_path / "own", "high_pass")
    state = load_backbone(folder.backbone).network.state_dict()
    content = {"format": 1, "run_id": folder.load().id, "model": disguised(state, "encoder.")}
    (folder.path / "checkpoints").mkdir()
    checkpoint = saved(content, folder.path / "checkpoints/step_00000001.pth")
    assert salmask(*imported(checkpoint, tmp_path / "runs", "--task", "knn", "encoder.width=8")).code == 0
    (backbone,) = (tmp_path / "runs").rglob("backbone.pth")
    assert load_backbone(backbone).input_filter == "high_pass"
    line = refused(
        *imported(checkpoint.rename(tmp_path / "step.pth"), tmp_path / "others", "--task", "knn", "encoder.width=8")
    )
    assert f"step.pth is a checkpoint of run {folder.load().id}, but not in its folder" in line
    assert not (tmp_path / "others").exists()


def test_rows_of_another_run_do_not_count_as_done(folder: RunFolder) -> None:
    run = tiny(changes={"knn.neighbours": [5]})
    rows = evaluate(run, folder, "knn", CPU)
    foreign = folder.results.read_text().replace(run.id, "0000000000")
    folder.results.write_text(foreign)
    assert len(evaluate(run, folder, "knn", CPU)) == len(rows)
    assert folder.results.read_text().startswith(foreign)
    assert folder.results.read_text().count("\n") == 2 * len(rows)
    assert "results.jsonl" in files_below(folder.path)
