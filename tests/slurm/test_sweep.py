from dataclasses import replace
from pathlib import Path

import pytest
from error_samples import assert_refused_by_name
from training_samples import OURS, TINY, files_below, refused, salmask, tiny
from yaml_samples import write_yaml

from baselines import resolve
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.settings.comparison import departures
from slurm.planning.before_launch import check_roots
from slurm.planning.graph import Job
from slurm.planning.sweep import SWEEPS, Part, Sweep, expand, load, narrowed

PART = Part(methods=("mocov2", OURS), seeds=(0, 1), settings={"data": {"crop": 64}})
SWEEP = Sweep("mine", (PART,))


def test_a_sweep_is_read_from_yaml_under_its_files_name(tmp_path: Path) -> None:
    path = write_yaml(
        tmp_path / "mine.yaml", {"methods": "mocov2", "seeds": [0, 2], "settings": {"data": {"crop": 64}}}
    )
    assert load(path) == Sweep("mine", (Part(("mocov2",), (0, 2), settings={"data": {"crop": 64}}),))


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_every_sweep_of_ours_expands(name: str, tmp_path: Path) -> None:
    graph = expand(narrowed(load(name), [], [0]), tmp_path, resolve, {})
    assert graph.jobs
    assert len({job.name for job in graph.jobs}) == len(graph.jobs)


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_the_full_tables_keep_the_papers_recipe(name: str, tmp_path: Path) -> None:
    for job in expand(load(name), tmp_path, resolve, {}).jobs:
        assert departures(job.run, resolve(job.run.method)) == ()
        grid = "[lr_grid=30+10+1+0.1]" if job.run.method == "supervised" else ""
        assert job.run.probe.protocol().name == f"linear-moco-v1{grid}"


def test_everything_shares_the_pretrainings_of_its_parts(tmp_path: Path) -> None:
    parts = ("table1", "table2", "table3", "ablations")
    whole = expand(narrowed(load("all"), [], [0]), tmp_path, resolve, {})
    apart = [expand(narrowed(load(name), [], [0]), tmp_path, resolve, {}) for name in parts]
    pretrainings = [graph.key(job) for graph in apart for job in graph.jobs if job.task == "pretrain"]
    shared = [whole.key(job) for job in whole.jobs if job.task == "pretrain"]
    assert len(shared) == len(set(shared))
    assert set(shared) == set(pretrainings)
    assert len(shared) < len(pretrainings)
    ours = [job for job in whole.jobs if job.run.method == OURS and job.run.seed == 0]
    assert [job.task for job in ours] == [
        "pretrain",
        "linear",
        "linear@caltech101",
        "linear@flowers102",
        "voc07+12",
        "coco",
    ]
    assert whole.tables == ("table1", "table2", "table3")


def test_a_task_names_its_data_set_in_either_way(tmp_path: Path) -> None:
    tasks = ["linear", "linear@caltech101", {"task": "logistic", "data": "flowers102"}, {"task": "knn"}]
    path = write_yaml(tmp_path / "mine.yaml", {"methods": ["mocov2"], "seeds": [0], "tasks": tasks})
    (part,) = load(path).parts
    assert part.tasks == ("linear", "linear@caltech101", "logistic@flowers102", "knn")
    graph = expand(load(path), tmp_path, resolve, {})
    assert [job.task for job in graph.jobs] == ["pretrain", *part.tasks]
    assert graph.jobs[2].protocols == ("linear-caltech-30-v1",)
    for job in graph.jobs[1:]:
        assert graph.parent(job) == graph.jobs[0]


def test_the_root_of_a_transfer_set_is_missed_before_anything_is_trained(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "mine.yaml", {"methods": ["mocov2"], "seeds": [0], "tasks": ["linear@flowers102"]})
    out = tmp_path / "runs"
    line = refused("sweep", str(path), "--local", "--root", str(tmp_path), "--out", str(out))
    assert line.startswith(
        "linear@flowers102 mocov2 s0 needs flowers102; mend: make $SALMASK_DATA/flowers102, or write `"
    )
    assert line.endswith(", or leave it out by --tasks")
    assert not out.exists()


def test_a_task_on_the_pretrainings_own_data_has_one_name(tmp_path: Path) -> None:
    sweep = Sweep("mine", (Part(("mocov2",), (0,), tasks=("linear@imagenet100", "linear")),))
    assert [job.task for job in expand(sweep, tmp_path, resolve, {}).jobs] == ["pretrain", "linear"]


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_sweeps_are_included_by_name_or_beside_the_file(tmp_path: Path, name: str) -> None:
    write_yaml(tmp_path / name, {"methods": ["mocov2"], "seeds": [3]})
    path = write_yaml(tmp_path / "both.yaml", {"include": [name, "demo"]})
    assert [part.seeds for part in load(path).parts] == [(3,), (0,)]
    assert narrowed(load(path), [OURS], []).parts[0].methods == (OURS,)
    with pytest.raises(UserError, match="sweep both has no method 'simclr'; "):
        narrowed(load(path), ["simclr"], [])
    round_about = write_yaml(tmp_path / "round.yaml", {"include": ["round.yaml"]})
    with pytest.raises(UserError, match=r"round\.yaml: a sweep cannot include itself; mend: take it out"):
        load(round_about)


def test_parts_take_from_the_file_what_they_do_not_say(tmp_path: Path) -> None:
    content = {
        "seeds": [3, 4],
        "tasks": ["knn"],
        "settings": {"optimization": {"epochs": 2, "lr": 0.5}, "data.crop": 48},
        "parts": [
            {"methods": ["mocov2"], "settings": {"optimization.lr": 0.1, "data": {"dataset": "scenes"}}},
            {"methods": ["simclr"], "seeds": [0]},
        ],
    }
    first, second = load(write_yaml(tmp_path / "mine.yaml", content)).parts
    assert (first.methods, first.seeds, first.tasks) == (("mocov2",), (3, 4), ("knn",))
    assert (second.methods, second.seeds, second.tasks) == (("simclr",), (0,), ("knn",))
    assert first.settings == {
        "optimization": {"epochs": 2, "lr": 0.1},
        "data": {"crop": 48, "dataset": "scenes"},
    }
    assert second.settings == {"optimization": {"epochs": 2, "lr": 0.5}, "data": {"crop": 48}}


def test_seeds_with_zeros_in_front_are_decimal(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "mine.yaml", "methods: mocov2\nseeds: [010, 08, 7]\nsettings: {seed: 011}")
    (part,) = load(path).parts
    assert part.seeds == (10, 8, 7)
    assert resolve("mocov2", part.settings).seed == 11


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"methods": ["mocov2"], "seeds": [0], "parts": []}, "`parts` is a list of mappings; mend: "),
        (
            {"methods": ["mocov2"], "seeds": [0], "parts": ["mocov2"]},
            "`parts` is a list of mappings; mend: ",
        ),
        ({"seeds": [0], "parts": [{"method": ["mocov2"]}]}, "unknown key 'method'; mend: did you mean 'methods'?"),
        (
            {"seeds": [0], "parts": [{"methods": ["mocov2"], "parts": [{}]}]},
            "`parts` stands at the top of a file, ",
        ),
        (
            {"seeds": [0], "parts": [{"methods": ["mocov2"], "include": ["demo"]}]},
            "not within a part; mend: move it there",
        ),
        ({"seeds": [0], "parts": [{"seeds": [1]}]}, "a sweep needs methods and seeds; mend: for example "),
        (
            {"methods": ["mocov2"], "seeds": [0], "parts": [{"settings": [1]}]},
            "settings are a mapping; mend: ",
        ),
        ({"methods": ["mocov2"], "seed": [0]}, "unknown key 'seed'; mend: did you mean 'seeds'?"),
        ({"methods": ["mocov2"]}, "a sweep needs methods and seeds; mend: for example "),
        ({"methods": [], "seeds": [0]}, "a sweep needs methods and seeds; mend: for example "),
        ({"methods": ["mocov2"], "seeds": ["one"]}, "seeds are whole numbers; mend: for example "),
        ({"methods": ["mocov2"], "seeds": [0], "settings": [1]}, "settings are a mapping; mend: "),
        (["mocov2"], "holds no settings of the form `key: value`"),
        (
            {"methods": ["mocov2"], "seeds": [0], "tasks": [3]},
            "3 is not a task; mend: write linear, linear@",
        ),
        (
            {"methods": ["mocov2"], "seeds": [0], "tasks": [{"task": "linear", "data": 0}]},
            "{'data': 0, 'task': 'linear'} is not a task; mend: write linear, linear@",
        ),
        ("methods:\nseeds: [0]", "a sweep needs methods and seeds; mend: for example "),
        ("methods: mocov2\nseeds:", "a sweep needs methods and seeds; mend: for example "),
        (
            {"methods": {"mocov2": 1}, "seeds": [0]},
            "methods are names, not dict; mend: for example `methods: [mocov2]`",
        ),
        ({"methods": ["mocov2", None], "seeds": [0]}, "methods are names, not None"),
        ({"methods": ["mocov2", "mocov2"], "seeds": [0]}, "methods holds mocov2 twice; mend: take one out"),
        ({"methods": ["mocov2"], "seeds": [0, 1, 0]}, "seeds holds 0 twice"),
        ({"methods": ["mocov2"], "seeds": {"a": 0}}, "seeds are whole numbers"),
        ({"methods": ["mocov2"], "seeds": [True]}, "seeds are whole numbers"),
        ("methods: mocov2\nseeds: 0\nseeds: 1", "duplicate key"),
        ("methods: mocov2\nseeds: [1:30]", "seeds are whole numbers"),
        ("methods: mocov2\nseeds: 0\ntasks:", "tasks has no value; mend: take the line out, or write [] for none"),
        (
            {"methods": ["mocov2"], "seeds": [0], "table": [1]},
            "table are names, not 1; mend: for example `table: [table1]`",
        ),
        ({"include": "demo"}, "`include` stands alone in a file; mend: for example "),
        ({"include": [None]}, "include are names, not None"),
        ({"include": []}, "`include` names no sweep; mend: for example `include: ["),
        ({"include": ["demo"], "seeds": [0]}, "`include` stands alone in a file; mend: for example "),
    ],
)
def test_a_broken_sweep_is_refused_by_name(tmp_path: Path, content: object, part: str) -> None:
    assert_refused_by_name(load, write_yaml(tmp_path / "mine.yaml", content), part)


def test_what_the_last_job_would_find_out_is_told_before_the_first(tmp_path: Path) -> None:
    content = {"methods": ["mocov2"], "seeds": [0], "settings": TINY}
    for wrong, line in (
        ({"table": "tabel1"}, "unknown table 'tabel1'; mend: did you mean 'table1'? known: table1, table2, table3"),
        ({"tasks": ["linaer"]}, "unknown task 'linaer'; mend: did you mean 'linear'? "),
        ({"tasks": ["linear@caltech"]}, "unknown data set 'caltech'"),
    ):
        path = write_yaml(tmp_path / "mine.yaml", content | wrong)
        for way in ("--plan", "--local"):
            assert refused("sweep", path, way, "--out", str(tmp_path / "runs")).startswith(line), (wrong, way)
    assert files_below(tmp_path) == {"mine.yaml"}


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "100%", "a\\b"])
def test_a_folder_that_no_batch_script_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    graph_file = write_yaml(tmp_path / "mine.yaml", {"methods": ["mocov2"], "seeds": [0], "settings": TINY})
    line = refused("sweep", graph_file, "--plan", "--out", str(tmp_path / name))
    assert "; mend: " in line
    assert all(character.isprintable() for character in line)
    if not name.isprintable():
        sweep = write_yaml(tmp_path / f"{name}.yaml", {"methods": ["mocov2"], "seeds": [0], "settings": TINY})
        refused("sweep", sweep, "--plan")


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_place_of_a_sweeps_folder_is_refused(tmp_path: Path, below: str) -> None:
    graph_file = write_yaml(tmp_path / "mine.yaml", {"methods": ["mocov2"], "seeds": [0], "settings": TINY})
    file = tmp_path / "file"
    file.touch()
    line = refused("sweep", graph_file, "--cluster", "slurm", "--out", str(file / below))
    assert line == f"cannot write to {file / below}: {file} is not a folder; mend: choose another --out"


def test_roots_are_looked_for_before_a_launch(tmp_path: Path) -> None:
    part = Part(("mocov2",), (0, 1), ("linear", "linear@flowers102"))
    graph = expand(Sweep("mine", (part,)), tmp_path / "runs", resolve, {})
    for on_nodes in (True, False):
        with pytest.raises(
            UserError, match=r"pretrain mocov2 s0 needs imagenet100: no root set .*; mend: give --root DIR"
        ):
            check_roots(graph, set(), on_nodes=on_nodes)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").mkdir()
    rooted = expand(Sweep("mine", (part,)), tmp_path / "runs", resolve, {"machine.data_root": str(tmp_path / "data")})
    for on_nodes in (True, False):
        with pytest.raises(
            UserError, match=r"linear@flowers102 mocov2 s0 needs flowers102; mend: .*leave it out by --tasks"
        ):
            check_roots(rooted, set(), on_nodes=on_nodes)
    done = {graph.key(job) for job in graph.jobs if job.task == "linear@flowers102"}
    assert check_roots(rooted, done, on_nodes=True) == []
    gone = expand(Sweep("mine", (part,)), tmp_path / "runs", resolve, {"machine.data_root": str(tmp_path / "gone")})
    (line,) = check_roots(gone, done, on_nodes=True)  # a node may have the folder
    assert line.startswith(str(tmp_path / "gone"))
    assert line.endswith("on this machine; see that the nodes have it: salmask doctor --cluster NAME")
    with pytest.raises(UserError, match=f"^{tmp_path / 'gone'}: No such file or directory .*; mend: "):
        check_roots(gone, done)


def test_a_mistyped_root_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Each job of the sweep used to fail by it, one after the other."""
    line = refused("sweep", "table1", "--local", "--root", str(tmp_path / "typo"), "--out", str(tmp_path / "runs"))
    assert line.startswith(f"{tmp_path / 'typo'}: No such file or directory (root of imagenet100, as given)")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_sweep_gets_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match=r"unknown sweep 'tabel1'; mend: did you mean 'table1'\? known: .*or the path of a"
    ):
        load("tabel1")
    with pytest.raises(UserError, match=r"config file none\.yaml does not exist"):
        load("none.yaml")


def test_narrowing_keeps_what_is_not_named() -> None:
    assert narrowed(SWEEP, [], []) == SWEEP
    assert narrowed(SWEEP, ["mocov2"], []).parts[0].methods == ("mocov2",)
    assert narrowed(SWEEP, [], [5]).parts[0].seeds == (5,)
    assert narrowed(SWEEP, [], [5]).parts[0].methods == PART.methods
    assert narrowed(SWEEP, [], [], ["knn"]).parts[0].tasks == ("knn",)


def test_a_part_that_evaluates_nothing_is_trained_beside_others() -> None:
    """With two parts or more, those without tasks were left out of every plan and launch."""
    bare = replace(PART, tasks=())
    sweep = Sweep("two", (bare, PART))
    assert narrowed(sweep, [], []) == sweep
    assert narrowed(sweep, list(PART.methods[:1]), [3]).parts == tuple(
        replace(part, methods=PART.methods[:1], seeds=(3,)) for part in sweep.parts
    )
    assert narrowed(sweep, [], [], PART.tasks).parts == (PART,)


def test_jobs_are_methods_by_seeds_with_pretraining_first(tmp_path: Path) -> None:
    jobs = expand(SWEEP, tmp_path, resolve, {"optimization": {"epochs": 3}}).jobs
    assert [job.name for job in jobs] == [
        f"{task} {method} s{seed}" for seed in (0, 1) for method in PART.methods for task in ("pretrain", "linear")
    ]
    for job in jobs:
        assert (job.run.data.crop, job.run.optimization.epochs) == (64, 3)
        assert job.folder.path == tmp_path / job.run.folder
    assert jobs[0].run.recipe == jobs[4].run.recipe
    assert jobs[0].run.recipe != jobs[2].run.recipe


def test_one_job_with_two_protocols_is_refused_and_one_that_is_alike_is_done_once(tmp_path: Path) -> None:
    """The second part of the sweep used to be left out without a message."""
    parts = [
        Part(("mocov2",), (0,), ("knn", "linear"), settings={**TINY, "knn.neighbours": [k], "machine.workers": k})
        for k in (3, 5)
    ]
    with pytest.raises(UserError, match=r"^knn mocov2 s0 stands twice, as knn-v1\[k=3\] and as knn-v1\[k=5\]; mend: a"):
        expand(Sweep("s", tuple(parts)), tmp_path, resolve, {})
    alike = [replace(part, tasks=("linear",)) for part in parts]
    assert len(expand(Sweep("s", tuple(alike)), tmp_path, resolve, {}).jobs) == 2


def test_a_sweep_with_an_unknown_method_or_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method 'byol'"):
        expand(narrowed(SWEEP, ["byol"], []), tmp_path, resolve, {})
    with pytest.raises(UserError, match=r"sweep mine: unknown key 'optimization.epoch'; mend: did you mean"):
        expand(SWEEP, tmp_path, resolve, {"optimization": {"epoch": 3}})
    with pytest.raises(UserError, match="unknown task 'liner'; mend: did you mean 'linear'"):
        expand(narrowed(SWEEP, [], [], ["liner"]), tmp_path, resolve, {})


@pytest.mark.parametrize("place", ["file", "command"])
def test_what_is_no_setting_of_a_sweep_is_refused_and_not_passed_over(tmp_path: Path, place: str) -> None:
    def expanded(settings: dict[str, object]) -> None:
        of_file, of_command = (settings, {}) if place == "file" else ({}, settings)
        sweep = Sweep("s", (Part(("mocov2",), (0, 1), settings={**TINY, **of_file}),))
        expand(sweep, tmp_path, resolve, of_command)

    with pytest.raises(UserError, match=r"^seed=7 is not a setting of a sweep; mend: --seeds 7, or `seeds: \[7\]` in"):
        expanded({"seed": 7})
    # Recorded jobs are left out of a sweep, so nothing would be scored again.
    with pytest.raises(
        UserError, match=r"^detection\.evaluate_only=true is not a setting of a sweep; mend: salmask eval"
    ):
        expanded({"detection.evaluate_only": True})
    with pytest.raises(UserError, match=r"^sweep s: 'detection' is a section; mend: set its keys"):
        expanded({"detection": 5})


def test_a_job_is_ready_and_done_by_its_files(tmp_path: Path) -> None:
    run = tiny()
    folder = RunFolder.of(run, tmp_path)
    folder.prepare(run)
    pretraining, probing = Job(run, folder, "pretrain"), Job(run, folder, "linear")
    assert (pretraining.ready, pretraining.done) == (True, False)
    assert (probing.ready, probing.done) == (False, False)
    folder.backbone.touch()
    assert pretraining.done
    assert (probing.ready, probing.done) == (True, False)
    folder.results.write_text('{"run_id": "torn')
    assert not probing.done


def test_the_command_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    where = "--local runs here, --cluster NAME submits to Slurm; --plan only shows the jobs"
    assert refused("sweep", "demo") == f"nothing says where to run; mend: {where}"
    line = refused("sweep", "demo", "--local", "--debug")
    assert line == "--local and --debug exclude each other; mend: choose one to run on"
    assert "unknown cluster 'lokal'; mend: did you mean 'local'?" in refused("sweep", "demo", "--cluster", "lokal")
    assert "'local' has no sbatch; mend: --plan" in refused("sweep", "demo", "--local", "--dry-run")
    for option in ("--feed", "--replace"):
        assert f"'debug' has no sbatch; mend: leave out {option}" in refused("sweep", "demo", "--debug", option)
    assert "unknown sweep 'dmo'; mend: did you mean 'demo'?" in refused("sweep", "dmo", "--local")
    seeds = refused("sweep", "demo", "--plan", "--seeds", "a")
    assert seeds == "--seeds a: seeds are whole numbers; mend: for example --seeds 0,1,2"
    assert refused("sweep", "demo", "--plan", "--seeds", "1_0").startswith("--seeds 1_0: seeds are whole numbers")
    for option, words in (("--seeds", ","), ("--seeds", "0,,1"), ("--methods", "mocov2,"), ("--tasks", " ")):
        line = refused("sweep", "demo", "--plan", option, words)
        assert line.startswith(f"{option} {words}: a word of the list is empty; mend: "), (option, words)
    line = refused("sweep", "demo", "--plan", "--tasks", "linear@")
    assert line == "'linear@' names no data set; mend: linear, or linear@DATASET"
    assert "unknown method 'simsiam'" in refused("sweep", "demo", "--plan", "--methods", "simsiam")
    assert files_below(tmp_path) == set()


def test_what_sbatch_would_get_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    ended = salmask("sweep", "demo", "--cluster", "slurm", "--dry-run", "--out", str(tmp_path / "runs"))
    heads = [line for line in ended.out.splitlines() if line.startswith("# ---- ")]
    assert [head.split("-")[-2] for head in heads] == ["pretrain", "knn", "logistic", "report"]
    assert ended.out.count("#!/bin/bash\n") == 4
    assert f"{tmp_path}/runs/code/COMMIT" in ended.out
    assert (ended.code, list(tmp_path.iterdir())) == (0, [])
