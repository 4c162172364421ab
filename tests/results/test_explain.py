"""A number is traced to its runs, their settings, code, data and logs; names of no cell are refused."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from places import EXAMPLES
from prediction_samples import rewritten
from run_samples import RESULT, begun, finished, of_method

from baselines import resolve
from repro.errors import UserError
from repro.runs.records import append, read
from repro.settings.detection import VOC
from repro.settings.reading import build, read_yaml
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.report.redo import commands, script
from results.tables.explain import explain, with_common_facts


@pytest.fixture
def runs(tmp_path: Path) -> list[RunRecord]:
    for seed, value in ((0, 68.0), (1, 70.0)):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): value}, moco__queue=32768)
    begun(tmp_path / "full", build([of_method("mocov2"), {"seed": 2, "moco.queue": 32768}]))
    return find_runs([tmp_path], resolve)


def test_a_cell_names_its_runs_and_what_they_are_made_of(runs: list[RunRecord]) -> None:
    content = explain("table1:mocov2:imagenet100", collect_runs(runs), runs)
    assert content["published"] == 68.22
    (column,) = content["measured"]
    assert column["measured"] == "69.00 ± 1.41 (2)"
    assert column["protocol"] == "linear-moco-v1"
    assert (column["scale"], column["departs from the paper in"]) == ("queue 32768", "queue 32768 (paper: 65536)")
    first, second = column["runs"]
    assert [first["seed"], second["seed"]] == [0, 1]
    assert [first["value"], second["value"]] == [68.0, 70.0]
    assert first["differs from the recipe in"]["moco.queue"] == "65536 -> 32768"
    assert first["trained at"] == ["0123456789abcdef0123456789abcdef01234567"]
    assert first["data"] == {"train": "75656031161e"}
    assert first["device"] == "NVIDIA H100"
    assert first["pretraining took"] == "50 s"
    assert Path(first["logs"][0]).read_text().startswith("step 10")
    assert Path(first["configuration"]).is_file()
    assert content["runs without a result"] == [f"full/mocov2/s2-{runs[-1].run.id if runs[-1].run else ''}: running"]


def test_a_setting_without_a_part_in_the_paper_has_no_value_of_the_papers(tmp_path: Path) -> None:
    """It used to say `data.scenes.size=64 (paper: 96)`: our default for scenes, which the paper does not have."""
    score = {("scenes", "top1"): 9.0}
    finished(tmp_path, "mocov2", 0, score, data__dataset="scenes", data__scenes__size=64, moco__queue=512)
    runs = find_runs([tmp_path], resolve)
    (column,) = explain("table1:mocov2:scenes", collect_runs(runs), runs)["measured"]
    departing = column["departs from the paper in"].split("; ")
    assert {"queue 512 (paper: 65536)", "data.scenes.size=64"} <= set(departing)
    recipe = column["runs"][0]["differs from the recipe in"]
    assert (recipe["moco.queue"], recipe["data.scenes.size"]) == ("65536 -> 512", "64")


def test_without_the_rows_nothing_is_said_to_be_as_in_the_paper(tmp_path: Path, runs: list[RunRecord]) -> None:
    runs = find_runs([tmp_path])
    (column,) = explain("table1:mocov2:imagenet100", collect_runs(runs), runs)["measured"]
    assert column["departs from the paper in"] == "settings not compared with the method's row"
    assert column["runs"][0]["differs from the recipe in"] == {}


def test_without_its_settings_a_run_is_not_said_to_have_changed_none(tmp_path: Path) -> None:
    unchanged, lost = (finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 70.0}).path for seed in range(2))
    (lost / "run.yaml").unlink()
    runs = find_runs([tmp_path], resolve)
    first, second = explain("table1:mocov2:imagenet100", collect_runs(runs), runs)["measured"][0]["runs"]
    assert (first["configuration"], first["differs from the recipe in"]) == (str(unchanged / "run.yaml"), {})
    assert second["configuration"] == f"{lost / 'run.yaml'} is missing, or of another version"
    assert second["differs from the recipe in"] == "settings unknown: no run.yaml that this version reads"


def test_an_empty_cell_says_why(runs: list[RunRecord]) -> None:
    content = explain("table1:simclr:caltech101", collect_runs(runs), runs)
    assert content["published"] == 78.20
    assert [column["measured"] for column in content["measured"]] == ["not run"]
    assert "departs from the paper in" not in content["measured"][0]  # it used to say: in ''


def test_a_cell_of_masks_is_told_of_masks_alone(tmp_path: Path) -> None:
    """COCO has two groups of columns; the one of boxes has no such cell."""
    folder = finished(tmp_path, "mocov2", 0, {("coco", "bbox_AP"): 38.0, ("coco", "mask_AP"): 35.0})
    rewritten(folder.results, task="coco", protocol="coco-mrcnn-c4-2x-v1")
    runs = find_runs([tmp_path], resolve)
    content = explain("table2:mocov2:coco:mask_AP", collect_runs(runs), runs)
    assert [column["measured"] for column in content["measured"]] == ["35.00 (1)"]
    assert content["published"] == 33.75


def test_without_any_result_the_unfinished_runs_are_still_told(tmp_path: Path) -> None:
    begun(tmp_path / "full", build([of_method("mocov2")]))
    for cell in ("table1:mocov2:imagenet100", "table2:mocov2:coco"):
        content = explain(cell, None, find_runs([tmp_path], resolve))
        assert content["measured"] == []
        assert len(content["runs without a result"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table1:mocov2", "names no cell; mend: write TABLE:METHOD:DATASET"),
        ("table1::imagenet100", "names no cell"),
        ("table9:mocov2:imagenet100", "no table 'table9'"),
        ("table1:mocov:imagenet100", "did you mean 'mocov2'"),
        ("table1:mocov2:imagenet10", "did you mean 'imagenet100'"),
        ("table1:mocov2:foo", "one of imagenet100, caltech101, flowers102, scenes$"),
        ("table1:mocov2:imagenet100:top", "no metric 'top' in table1"),
        ("table1:mocov2:scenes:top", "no metric 'top' in table1"),  # not: no data set
        ("table1:mocov2:scene:top5", "did you mean 'scenes'"),
        ("table2:mocov2:coco:box_AP50", "did you mean 'bbox_AP50'"),
        ("table2:mocov2:imagenet100", "no data set 'imagenet100' in table2"),  # imagenet100 has no detection
    ],
)
def test_what_names_no_cell_is_refused(runs: list[RunRecord], name: str, message: str) -> None:
    knn = find_runs([EXAMPLES / "demo"], resolve)  # scenes, whose table is by another evaluation than the paper's
    with pytest.raises(UserError, match=message):
        explain(name, collect_runs([*runs, *knn]), [*runs, *knn])


def test_runs_that_no_table_averages_are_not_averaged_here(tmp_path: Path) -> None:
    for seed, rate in ((0, 0.03), (1, 0.06)):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}, optimization__lr=rate)
    runs = find_runs([tmp_path], resolve)
    with pytest.raises(UserError, match=r"different recipes.*0\.0[36].*0\.0[36]"):
        explain("table1:mocov2:imagenet100", collect_runs(runs), runs)


def test_the_commands_make_the_same_run_again(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2+ours-hp", 3, {("imagenet100", "top1"): 70.0}, optimization__epochs=7)
    comment, settings, checkout, pretrain, probe = commands(RunRecord(folder.path))
    run = folder.load()
    assert comment == "# code: commit 0123456789abcdef0123456789abcdef01234567"
    assert settings == "# run.yaml: every setting of the run, as its folder has it"
    assert checkout.endswith("git checkout --quiet 0123456789abcdef0123456789abcdef01234567")
    assert pretrain == (
        "PYTHONPATH=. python -m repro.cli pretrain mocov2+ours-hp --config run.yaml --out again/full --root DIR"
    )
    assert resolve("mocov2+ours-hp", read_yaml(folder.run_yaml)).id == run.id
    evaluate = f"PYTHONPATH=. python -m repro.cli eval again/full/{run.folder}"
    assert probe == f"{evaluate} --task linear --root imagenet100=DIR"

    (row,) = read(folder.results)[0]
    detection = replace(row, task=VOC, dataset=VOC, protocol=run.detection.protocol(VOC, 8).name, metric="bbox_AP")
    append(folder.results, [detection])  # its batch follows from the devices, and is no other setting
    assert commands(RunRecord(folder.path))[4:] == [
        f"{evaluate} --task linear,{VOC} --root imagenet100=DIR --root voc07+12=DIR"
    ]
    append(folder.results, [replace(row, protocol="linear-moco-v1[epochs=3]")])
    assert commands(RunRecord(folder.path))[4] == (
        "# measured with other settings of the evaluation: linear-moco-v1[epochs=3]"
    )


def test_what_cannot_be_made_again_as_it_was_is_told(tmp_path: Path) -> None:
    values = {("imagenet100", "top1"): 70.0, ("imagenet100", "top5"): 90.0, ("scenes", "top1"): 50.0}
    folder = finished(tmp_path, "mocov2", 0, values)
    run = folder.load()
    (attempt,) = json.loads(folder.provenance.read_text())
    folder.provenance.write_text(json.dumps([attempt, attempt | {"commit": "HEAD~1", "dirty": True}]))
    row = read(folder.results)[0][0]
    append(folder.results, [replace(row, run_id="another", task="knn"), replace(row, task="a task of mine")])
    told = [
        "# code: no commit was recorded, so that of the checkout is used",
        "# the code had changes that no commit holds",
        "# run.yaml: every setting of the run, as its folder has it",
        "cd CHECKOUT",
        "PYTHONPATH=. python -m repro.cli pretrain mocov2 --config run.yaml --out again/full --root DIR",
    ]
    evaluation = f"eval again/full/{run.folder} --task linear,linear@scenes --root imagenet100=DIR"
    assert commands(RunRecord(folder.path)) == [*told, f"PYTHONPATH=. python -m repro.cli {evaluation}"]
    name = RunRecord(folder.path).name
    assert script([RunRecord(folder.path)]).partition(f"\n# {name}\n")[2].splitlines() == [
        *told[:2],
        "code HEAD",
        f'salmask pretrain mocov2 --config "$archive"/runs/{name}/run.yaml --out "$work"/again/full '
        '--root "$root_imagenet100"',
        f'salmask eval "$work"/again/full/{run.folder} --task linear,linear@scenes '
        '--root imagenet100="$root_imagenet100"',
    ]
    folder.results.unlink()
    assert commands(RunRecord(folder.path)) == told
    folder.run_yaml.unlink()
    assert commands(RunRecord(folder.path)) == [f"# {name}: its run.yaml is missing or of another version"]
    last = script([RunRecord(folder.path)]).splitlines()[-2:]
    assert last == [f"# {name}", "# its run.yaml is missing or of another version"]


def test_weights_from_elsewhere_are_named_and_evaluated_alone(tmp_path: Path) -> None:
    own = {"framework": "external", "imported__weights": "a" * 64, "imported__origin": "moco.pth"}
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 70.0}, **own)
    place = f"again/full/{folder.load().folder}"
    note = f"# weights from elsewhere, moco.pth, SHA-256 {'a' * 64}, in again/full"
    assert commands(RunRecord(folder.path))[3:] == [
        note,
        f"PYTHONPATH=. python -m repro.cli eval {place} --task linear --root imagenet100=DIR",
    ]
    assert script([RunRecord(folder.path)]).splitlines()[-3:] == [
        f"code {RESULT.commit}",
        note,
        f'salmask eval "$work"/{place} --task linear --root imagenet100="$root_imagenet100"',
    ]


def test_weights_from_elsewhere_that_are_missing_are_told_before_anything_is_made(tmp_path: Path) -> None:
    """The script used to stop at their evaluation, after all trainings before it."""
    plain = finished(tmp_path / "runs", "mocov2", 0, {("imagenet100", "top1"): 70.0})
    own = {"framework": "external", "imported__weights": "a" * 64, "imported__origin": "moco.pth"}
    imported = finished(tmp_path / "runs", "mine", 0, {("imagenet100", "top1"): 70.0}, **own)
    text = 'git() { mkdir -p "$folder.part"; }\n' + script([RunRecord(plain.path), RunRecord(imported.path)])
    place, environment = f"again/full/{imported.load().folder}", {**os.environ, "PYTHON": "echo"}

    def redo() -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", text, "redo.sh", "checkout", "imagenet100=images"]
        return subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)

    refused = redo()
    told = f"{place}: put the run's folder there, with its backbone.pth; weights from elsewhere are not made again\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", told)
    assert not (tmp_path / "again").exists()
    (tmp_path / place).mkdir(parents=True)
    done = redo()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["pretrain", "eval", "eval"]
    imported.results.unlink()  # which asks for no evaluation, and for no folder
    (tmp_path / place).rmdir()
    text = script([RunRecord(imported.path)])
    assert redo().returncode == 0


def test_files_of_the_makers_own_are_named_with_what_they_held(tmp_path: Path) -> None:
    own = {"localizer__files": "/home/ann/maps", "localizer__files_sha256": "2" * 64, "localizer__source": "maps"}
    folder = finished(tmp_path, "mocov2+ours-hp", 0, {("imagenet100", "top1"): 70.0}, **own)
    assert commands(RunRecord(folder.path))[3] == (
        f"# localizer.files=/home/ann/maps has the SHA-256 {'2' * 64}; where it is elsewhere, add localizer.files=PATH"
    )
    own = {
        "localizer__network": "checkpoint",
        "localizer__weights": "w.pth",
        "localizer__sha256": "3" * 64,
        "data__masks": "m",
        "data__masks_sha256": "4" * 64,
    }
    folder = finished(tmp_path, "mocov2+ours-hp", 1, {("imagenet100", "top1"): 70.0}, **own)
    assert commands(RunRecord(folder.path))[3:5] == [
        f"# localizer.weights=w.pth has the SHA-256 {'3' * 64}; where it is elsewhere, add localizer.weights=PATH",
        f"# data.masks=m has the SHA-256 {'4' * 64}; where it is elsewhere, add data.masks=PATH",
    ]


def test_what_all_seeds_share_is_told_once(runs: list[RunRecord]) -> None:
    content = explain("table1:mocov2:imagenet100", collect_runs(runs), runs)
    (column,) = with_common_facts(content)["measured"]
    shared = column["all 2 runs"]
    assert shared["device"] == "NVIDIA H100"
    assert all(run.keys().isdisjoint(shared) for run in column["runs"])
    assert [run["seed"] for run in column["runs"]] == [0, 1]
    (whole,) = content["measured"]
    assert [{**shared, **run} for run in column["runs"]] == whole["runs"]
