import os
import re
from pathlib import Path

import pytest
from error_samples import message_of
from training_samples import tiny
from yaml_samples import write_yaml

from baselines import resolve
from repro.errors import UserError
from slurm.graph import make_graph
from slurm.launch import scripts
from slurm.profile import BUILT_IN, Cluster, Resources, available, load, minutes
from slurm.sweep import Part, Sweep, expand

GOLDEN = Path(__file__).parent / "golden" / "sbatch"
CODE = Path("/sweeps/code/0123456789ab")


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
def test_every_profile_of_ours_loads(name: str) -> None:
    assert load(name).name == name


def test_a_profile_is_read_whole(tmp_path: Path) -> None:
    text = """
    executor: slurm
    partition: gpu
    account: lab
    nodes: 2
    gpus: 4
    cpus: 6
    memory: 62.5
    time: 1-02:30:01
    extra: {mail-type: FAIL, exclusive: ""}
    setup: [module load cuda, source env.sh]
    scratch: $SOMEWHERE/salmask
    throttle: 8
    attempts: 3
    tasks:
      linear: {gpus: 1, nodes: 1, time: 90}
      linear@caltech101: {time: 30}
    """
    cluster = load(write_yaml(tmp_path / "mine.yaml", text))
    every = Resources(
        partition="gpu",
        account="lab",
        nodes=2,
        gpus=4,
        cpus=6,
        memory=62.5,
        time=24 * 60 + 2 * 60 + 30 + 1,
        extra=(("mail-type", "FAIL"), ("exclusive", "")),
    )
    assert cluster.resources == every
    assert (cluster.name, cluster.throttle, cluster.attempts) == ("mine", 8, 3)
    assert cluster.setup == ("module load cuda", "source env.sh")
    assert every.tasks_per_node == 4
    probe = cluster.resources_of("linear")
    assert (probe.gpus, probe.nodes, probe.time, probe.partition, probe.memory) == (1, 1, 90, "gpu", 62.5)
    assert cluster.resources_of("linear@flowers102") == probe
    assert cluster.resources_of("linear@caltech101").time == 30
    assert cluster.resources_of("pretrain") == every


def test_scratch_expands_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/fast")
    assert Cluster("mine", scratch="$SOMEWHERE/salmask").sweeps_folder == Path("/fast/salmask")
    assert Cluster("mine").sweeps_folder == Path("runs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:00", 60), ("10:00:00", 600), ("00:00:30", 1), ("2-00:00:00", 2880), ("1-01:01:01", 1502)],
)
def test_times_are_slurms(text: str, expected: int) -> None:
    assert minutes(Path("x"), text) == expected


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"partiton": "gpu"}, "unknown key 'partiton'; mend: did you mean 'partition'?"),
        ({"tasks": {"linear": {"gpu": 1}}}, "unknown key 'gpu'; mend: did you mean 'gpus'?"),
        ({"tasks": ["linear"]}, "tasks are a mapping; mend: for example "),
        ({"executor": "pbs"}, "executor 'pbs' is unknown; mend: one of slurm, local, debug"),
        ({"time": "two days"}, "time=two days is no time; mend: write minutes, HH:MM:SS or D-HH:MM:SS"),
        ({"gpus": "many"}, "gpus=many is no whole number; mend: for example `gpus: 1`"),
        ({"memory": "64GB"}, "memory=64GB is no number of gigabytes; mend: for example `memory: 64`"),
        ({"cpus": 0}, "nodes, cpus and time are at least 1; mend: "),
        ({"setup": "module load cuda"}, "setup is a list of shell lines; mend: for example "),
        ({"extra": "mail"}, "extra is a mapping of sbatch's options; mend: for example "),
        ({"attempts": 0}, "attempts=0 lets nothing run; mend: 1 or more"),
        (["gpu"], "holds no settings of the form `key: value`; mend: for example "),
        ("a: [", "cannot be read"),
    ],
)
def test_a_broken_profile_is_refused_by_name(tmp_path: Path, content: object, part: str) -> None:
    path = write_yaml(tmp_path / "mine.yaml", content)
    message = message_of(lambda: load(path))
    assert part in message
    assert path in message


def test_the_users_own_profiles_come_first(tmp_path: Path) -> None:
    mine = tmp_path / "config" / "salmask" / "clusters"
    write_yaml(mine / "slurm.yaml", {"partition": "mine"})
    write_yaml(mine / "other.yaml", {"partition": "other"})
    assert load("slurm").resources.partition == "mine"
    assert {"other", "local", "debug"} <= set(available())
    with pytest.raises(
        UserError, match=r"unknown cluster 'othr'; mend: did you mean 'other'\? .*; or write .*othr\.yaml, or give"
    ):
        load("othr")


def written(name: str, place: Path) -> str:
    """The scripts of a small sweep by a profile, without what differs between two calls or two machines."""
    settings = {"moco.bn_splits": 4}
    part = Part(("mocov2", "mocov2+ours-hp"), (0, 1), ("linear", "knn"), settings=settings)
    graph = expand(Sweep("small", (part,)), place / "small", resolve, {})
    names: dict[str, str] = {}
    text = "".join(f"# ---- {name}\n{script}" for name, script in scripts(graph, load(name), CODE))
    text = text.replace(str(place), "/sweeps")
    for submission in re.findall(r"small-\w+-[0-9a-f]{8}", text):
        names.setdefault(submission, re.sub(r"[0-9a-f]{8}$", "IDENTITY", submission))
    for submission, stable in names.items():
        text = text.replace(submission, stable)
    return re.sub(r"\S+/python\S* -u -m", "python -u -m", text)


@pytest.mark.parametrize("name", ["slurm", "slurm-4gpu", "slurm-preemptible"])
def test_what_sbatch_gets(name: str, tmp_path: Path) -> None:
    """Golden files; look at the difference, then renew them with SALMASK_GOLDEN=write."""
    path = GOLDEN / f"{name}.sh"
    text = written(name, tmp_path)
    if os.environ.get("SALMASK_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
    assert "29500" not in text
    assert "CUDA_VISIBLE_DEVICES" not in text


def test_an_array_that_slurm_would_refuse_is_split(tmp_path: Path) -> None:
    graph = expand(Sweep("many", (Part(("mocov2",), tuple(range(7)), ("linear",)),)), tmp_path, resolve, {})
    texts = [script for _, script in scripts(graph, Cluster("c", max_array=3, throttle=2), CODE)]
    arrays = [re.findall(r"--array=(\S+)", script) for script in texts]
    assert arrays == [["0-2%2"], ["0-2%2"], [], ["0-2%2"], ["0-2%2"], [], []]
    assert [re.findall(r"--dependency='?(\w+)", script) for script in texts] == [
        *([], [], []),
        *(["aftercorr"], ["aftercorr"], ["afterok"]),
        ["afterany"],
    ]
    assert not list(tmp_path.iterdir())  # showing writes nothing


def test_nothing_is_planned_for_what_is_done(tmp_path: Path) -> None:
    run = tiny()
    graph = expand(Sweep("s", (Part(("mocov2",), (0,), ("linear",)),)), tmp_path, lambda *_, **__: run, {})
    (pretraining, probe) = graph.jobs
    pretraining.folder.prepare(run)
    pretraining.folder.backbone.touch()
    names = [name for name, _ in scripts(graph, Cluster("c"), CODE)]
    assert [name.rpartition("-")[0].rpartition("-")[2] for name in names] == ["linear", "report"]
    assert not list(scripts(make_graph(tmp_path, [pretraining], ()), Cluster("c"), CODE))
    assert not probe.done
