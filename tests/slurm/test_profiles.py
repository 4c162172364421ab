import os
import re
from pathlib import Path

import pytest
from error_samples import assert_refused_by_name, message_of
from places import DOCS, GOLDEN
from training_samples import tiny
from yaml_samples import write_yaml

from baselines import resolve
from repro.errors import UserError
from slurm.planning.graph import make_graph
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import BUILT_IN, Cluster, Resources, available, keys_of, load
from slurm.profiles.profile_values import minutes
from slurm.submission.launch import _array_limit, scripts

SCRIPTS = GOLDEN / "sbatch"
CODE = Path("/sweeps/code/0123456789ab")


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
def test_every_profile_of_ours_loads(name: str) -> None:
    assert load(name).name == name


def test_only_a_profile_that_its_name_finds_is_known_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of `slurm.yaml` used to be recorded as `slurm`, so that `retry` took the built-in profile instead."""
    monkeypatch.setattr("slurm.profiles.profile.user_folder", lambda: tmp_path / "own")
    for folder in ("own", "elsewhere"):
        (tmp_path / folder).mkdir()
        write_yaml(tmp_path / folder / "slurm.yaml", "partition: gpu")
    assert load(str(tmp_path / "own" / "slurm.yaml")).name == load("slurm").name == "slurm"
    assert load(str(tmp_path / "elsewhere" / "slurm.yaml")).name == "slurm.yaml"
    assert load(str(BUILT_IN / "slurm.yaml")).name == "slurm.yaml"  # hidden by the user's own of that name


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
        throttle=8,
        extra=(("mail-type", "FAIL"), ("exclusive", "")),
        setup=("module load cuda", "source env.sh"),
    )
    assert cluster.resources == every
    assert (cluster.name, cluster.attempts) == ("mine.yaml", 3)
    assert every.tasks_per_node == 4
    probe = cluster.resources_of("linear")
    assert (probe.gpus, probe.nodes, probe.time, probe.partition, probe.memory) == (1, 1, 90, "gpu", 62.5)
    assert cluster.resources_of("linear@flowers102") == probe
    assert cluster.resources_of("linear@caltech101").time == 30
    assert cluster.resources_of("pretrain") == every


def test_what_is_left_out_is_not_asked_for(tmp_path: Path) -> None:
    graph = expand(Sweep("s", (Part(("mocov2",), (0,)),)), tmp_path, resolve, {})
    (_, script), *_ = scripts(graph, load(write_yaml(tmp_path / "bare.yaml", "executor: slurm")), CODE)
    asked = set(re.findall(r"#SBATCH --([\w-]+)", script))
    ours = {"error", "job-name", "open-mode", "output", "requeue", "signal"}
    assert asked == ours | {"nodes", "ntasks-per-node"}
    assert "--cpus-per-task" not in script
    assert "OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-" in script


def test_little_memory_is_not_all_of_it(tmp_path: Path) -> None:
    """`--mem=0` would ask for a whole node's memory."""
    graph = expand(Sweep("s", (Part(("mocov2",), (0,)),)), tmp_path, resolve, {})
    (_, script), *_ = scripts(graph, Cluster("c", resources=Resources(memory=0.0004)), CODE)
    assert "#SBATCH --mem=1M\n" in script


def test_all_that_a_site_may_want_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", "my-lab")
    text = """
    partition: [gpu, long]
    account: $LAB
    qos: normal
    constraint: "a100|h100"
    reservation: course
    licenses: [matlab:1, other:2]
    nodelist: n[1-4]
    exclude: [n2, n3]
    nice: -5
    comment: 'salmask, "quoted" $(id)'
    mail_user: me@lab.org
    mail_type: [FAIL, END]
    gpus: a100:4
    throttle: 8
    srun: [--mpi=pmix, "--container-image=/images/salmask.sqsh"]
    python: apptainer exec --nv /images/salmask.sif python3
    setup: [module load cuda]
    extra: {exclusive: ""}
    tasks: {linear: {throttle: 2, setup: [module load other], gpus: 1, exclude: ""}}
    """
    cluster = load(write_yaml(tmp_path / "whole.yaml", text))
    graph = expand(Sweep("s", (Part(("mocov2",), tuple(range(9))),)), tmp_path, resolve, {})
    pretraining, linear, report = [script for _, script in scripts(graph, cluster, CODE)]
    for option in (
        *("partition=gpu,long", "account=my-lab", "qos=normal", "constraint='a100|h100'", "reservation=course"),
        *("licenses=matlab:1,other:2", "nodelist='n[1-4]'", "exclude=n2,n3", "nice=-5", "mail-user=me@lab.org"),
        *("mail-type=FAIL,END", "gpus-per-node=a100:4", "array=0-8%7", "ntasks-per-node=4", "exclusive"),
        "comment='salmask, \"quoted\" $(id)'",
    ):
        assert f"#SBATCH --{option}\n" in pretraining
    assert "\nmodule load cuda\n" in pretraining
    (command,) = [line for line in pretraining.splitlines() if line.startswith("srun ")]
    assert "--mpi=pmix --container-image=/images/salmask.sqsh apptainer exec --nv" in command
    assert "salmask.sif python3 -u -m slurm.start" in command
    assert "#SBATCH --array=0-8%1\n" in linear  # its share of the sweep's eight places; on its own it would get two
    assert "#SBATCH --gpus-per-node=1\n" in linear
    assert "\nmodule load other\n" in linear
    assert "module load cuda" not in linear
    assert "--exclude" not in linear
    assert "#SBATCH --ntasks-per-node=1\n" in report
    assert "#SBATCH --gpus-per-node=a100:1\n" in report


def test_gpus_of_a_gres_count_as_gpus(tmp_path: Path) -> None:
    text = "gres: gpu:a100:4,nvme:1\ntasks: {knn: {gpus: 2}, linear: {gres: ''}}"
    cluster = load(write_yaml(tmp_path / "gres.yaml", text))
    every = cluster.resources_of("pretrain")
    assert (every.gpus, every.tasks_per_node, every.gpus_option, every.gres) == (4, 4, "", "gpu:a100:4,nvme:1")
    knn = cluster.resources_of("knn")
    assert (knn.gpus, knn.gpus_option, knn.gres) == (2, 2, "nvme:1")
    linear = cluster.resources_of("linear")
    assert (linear.gpus, linear.gpus_option, linear.gres) == (0, "", "")
    report = cluster.resources_of("report")
    assert (report.gpus, report.gpus_option, report.gres) == (1, "", "gpu:a100:1,nvme:1")
    disk = load(write_yaml(tmp_path / "disk.yaml", 'gpus: 4\ntasks: {linear: {gres: "nvme:1"}}')).resources_of("linear")
    assert (disk.gpus, disk.gpus_option, disk.gres) == (4, 4, "nvme:1")  # another resource is no word on GPUs


@pytest.mark.parametrize(
    ("gres", "count", "kind", "one"),
    [
        ("gpu", 1, "", "gpu"),
        ("gpu:4", 4, "", "gpu:1"),
        ("gpu:a100", 1, "a100", "gpu:a100"),
        ("nvme:1,gres/gpu:a100:4", 4, "a100", "nvme:1,gres/gpu:a100:1"),
        ("gpu:1g.10gb:2", 2, "1g.10gb", "gpu:1g.10gb:1"),  # slices of a GPU (MIG)
        ("gpu:1g.10gb", 1, "1g.10gb", "gpu:1g.10gb"),
        ("gpu:3090:4", 4, "3090", "gpu:3090:1"),
        ("gpu:a100:4,gpu:1g.5gb:7", 11, "a100", "gpu:a100:1"),
        ("gpu:a100:8(S:1,3,5,7)", 8, "a100", "gpu:a100:1"),
        ("gpu:8(S:0-1),gpu:1g.5gb:7(S:0,1),nvme:1", 15, "", "gpu:1,nvme:1"),
        ("nvme:1,gpumem:4", 0, "", "nvme:1,gpumem:4"),
    ],
)
def test_a_gres_is_read_as_slurm_writes_it(tmp_path: Path, gres: str, count: int, kind: str, one: str) -> None:
    cluster = load(write_yaml(tmp_path / "gres.yaml", {"gres": gres, "tasks": {"knn": {"gpus": 1}}}))
    every = cluster.resources_of("pretrain")
    assert (every.gpus, every.gpu_type, every.gpus_option) == (count, kind, "")
    report = cluster.resources_of("report")
    assert (report.gpus, report.gpus_option, report.gres) == (min(1, count), "", one)
    others = [part for part in gres.split(",") if part.startswith(("nvme", "gpumem"))]
    assert cluster.resources_of("knn").gres == ",".join(others)


@pytest.mark.parametrize(("written", "option"), [("1g.10gb:1", "1g.10gb:1"), ("3090:2", "3090:2"), ("8", 8)])
def test_gpus_of_a_type_that_begins_with_a_digit(tmp_path: Path, written: str, option: str | int) -> None:
    assert load(write_yaml(tmp_path / "mine.yaml", f"gpus: {written}")).resources.gpus_option == option


def test_tasks_of_one_process_get_one(tmp_path: Path) -> None:
    text = "nodes: 2\ngpus: 4\nprocesses: 4\ntasks: {logistic@caltech101: {time: 30}, linear: {time: 60}}"
    cluster = load(write_yaml(tmp_path / "two.yaml", text))
    for task in ("report", "logistic", "logistic@caltech101", "logistic@flowers102"):
        asked = cluster.resources_of(task)
        assert (asked.nodes, asked.tasks_per_node, asked.gpus) == (1, 1, 1), task
    assert cluster.resources_of("logistic@caltech101").time == 30
    # Others keep what the profile asks for, whether or not they have settings of their own.
    for task in ("knn", "linear"):
        asked = cluster.resources_of(task)
        assert (asked.nodes, asked.tasks_per_node, asked.gpus) == (2, 4, 4), task
    assert cluster.resources_of("linear").time == 60


def test_every_key_is_explained() -> None:
    text = (DOCS / "cluster.md").read_text()
    keys = {**keys_of(Resources), **keys_of(Cluster), "executor": None, "tasks": None}
    assert [key for key in keys if not re.search(rf"^\| .*`{key}`", text, re.MULTILINE)] == []


def test_scratch_expands_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/fast")
    assert Cluster("mine", scratch="$SOMEWHERE/salmask").sweeps_folder == Path("/fast/salmask")
    assert Cluster("mine").sweeps_folder == Path("runs")


def test_a_variable_that_holds_several_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", "vision\n#SBATCH --uid=0")
    assert_refused_by_name(load, write_yaml(tmp_path / "mine.yaml", "account: $LAB"), "account holds a line's end")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("1", 1), ("90", 90), ("30:00", 30), ("90:00", 90), ("1:01", 2), ("1:00:00", 60), ("10:00:00", 600)],
        *[("1-0", 1440), ("1-1", 1500), ("0-0:5", 5), ("2-00:00:00", 2880), ("1-01:01:01", 1502), ("1-23:59:59", 2880)],
    ],
)
def test_times_are_slurms(text: str, expected: int) -> None:
    assert minutes("x", "time", text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *["0", "0:30", "00:00:30", "10:60:00", "10:75:00", "10:00:60", "10:00:61", "1-24"],
        *["5:", ":5", "1:2:3:4", "-5", "٣", "1e3", "9" * 30],
    ],
)
def test_no_times_of_slurms_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^x: time="):
        minutes("x", "time", text)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"partiton": "gpu"}, "unknown key 'partiton'; mend: did you mean 'partition'?"),
        ({"tasks": {"linear": {"gpu": 1}}}, "unknown key 'gpu'; mend: did you mean 'gpus'?"),
        ({"tasks": ["linear"]}, "tasks are a mapping; mend: for example "),
        ({"executor": "pbs"}, "executor 'pbs' is unknown; mend: one of slurm, local, debug"),
        ({"time": "two days"}, "time=two days is not a time; mend: write minutes, HH:MM:SS or D-HH:MM:SS"),
        ({"gpus": "many"}, "gpus=many is neither a whole number nor TYPE:NUMBER; mend: for example `gpus: 1`"),
        ({"memory": "64GB"}, "memory=64GB is not a number of gigabytes; mend: for example `memory: 64`"),
        ({"cpus": 0}, "cpus=0 lets nothing run; mend: "),
        ({"setup": "module load cuda"}, "setup is a list of shell lines; mend: for example "),
        ({"extra": "mail"}, "extra is a mapping of sbatch's options; mend: for example "),
        ({"attempts": 0}, "attempts=0 lets nothing run; mend: 1 or more"),
        ("partition:", 'partition has no value; mend: take the line out, or write "" to ask for nothing'),
        ("qos: null", "qos has no value"),
        ("account: [a, b]", "account is a list; mend: write one value, `account: …`"),
        ("account: {a: b}", "account is a mapping"),
        ("gpus: 1\ngpus: 2", "the key 'gpus' stands there twice"),
        ("tasks: {linear: {gpus: 1, gpus: 2}}", "the key 'gpus' stands there twice"),
        ('account: "lab\\ntouch x"', "account holds a line's end"),
        ("account: $NO_SUCH_LAB", "account names $NO_SUCH_LAB, which is not set; mend: export NO_SUCH_LAB, or write"),
        ("cpus: ٣", "cpus=٣ is not a whole number"),
        ("memory: nan", "memory=nan is not a number of gigabytes"),
        ("memory: 1_0", "memory=1_0 is not a number of gigabytes"),
        ("memory: ٦٤", "memory=٦٤ is not a number of gigabytes"),
        ("time: 10:75:00", "time=10:75:00 is not a time"),
        ("tasks: {linaer: {gpus: 1}}", "tasks names 'linaer', which is not a task; mend: did you mean 'linear'?"),
        ("tasks: {~: {gpus: 1}}", "a name below tasks has no value"),
        ("tasks: {linear@: {gpus: 1}}", "tasks names the unknown data set ''"),
        (
            "tasks: {linear@caltech: {gpus: 1}}",
            "tasks names the unknown data set 'caltech'; mend: did you mean 'caltech101'?",
        ),
        ("tasks: {logistic: {processes: 2}}", "logistic: logistic runs in one process"),
        ("tasks: {report: {nodes: 2}}", "report: report runs in one process"),
        ("extra: {time: 5}", "extra holds time, which has a key of its own; mend: write `time: …`"),
        ("extra: {signal: USR1@9}", "extra holds signal, which salmask sets itself; mend: take it out"),
        (
            "extra: {clusters: far}",
            "extra holds clusters, with which a launch cannot work; mend: export SLURM_CLUSTERS",
        ),
        ('extra: {wait: ""}', "extra holds wait, with which a launch cannot work; mend: take it out"),
        ("partition: a\nextra: {partition: b}", "extra holds partition, and partition is set too"),
        ("mail_type: FAIL\nextra: {mail-type: END}", "extra holds mail-type, and mail_type is set too"),
        ("memory: 4\nextra: {mem-per-cpu: 2G}", "extra holds mem-per-cpu, and memory is set too"),
        ("cpus: 4\nextra: {cpus-per-gpu: 2}", "extra holds cpus-per-gpu, and cpus is set too"),
        ('extra: {gres: "gpu:4"}', "extra holds gres, which has a key of its own; mend: write `gres: …`"),
        ("extra: {ntasks-per-gpu: 1}", "extra holds ntasks-per-gpu, which has a key of its own; mend: write `proc"),
        ("extra: {gpus-per-task: 1}", "extra holds gpus-per-task, which has a key of its own; mend: write `gpus: …`"),
        ("extra: {gpus-per-socket: 1}", "extra holds gpus-per-socket, which has a key of its own"),
        ("extra: {N: 2}", "extra holds 'N', which is not an option of sbatch"),
        ('extra: {"a\\nb": 2}', "which is not an option of sbatch"),
        ("gpus: 1\ngres: gpu:2", "gpus and gres both ask for GPUs"),
        ("srun: [mpi]", "srun holds 'mpi'; mend: for example `srun: [--mpi=pmix]`"),
        ("srun: [--output=x]", "srun holds --output, which salmask sets itself"),
        ("time: 10\nsignal_seconds: 301", "signal_seconds=301 is more than half of the time limit of 10 min"),
        (
            "time: 1\nsignal_seconds: 30",
            "and time=1, a job may be warned as it starts; mend: a longer `time`, or `signal_seconds: 0`",
        ),
        ("time: 2\nsignal_seconds: 60", "may be warned as it starts; mend: a longer `time`, or `signal_seconds: 30`"),
        ("tasks: {knn: {time: 3}}", "knn: signal_seconds=120 is more than half of the time limit of 3 min"),
        ("x: &a [1, 2]\ny: *a\n" + "z: 1\n" * 20_000, "bytes; at most 65536 are allowed"),
        ("a: " + "[" * 5000, "cannot be read"),
        ('setup: ["a\\0b"]', "setup holds a zero byte; mend: take it out"),
        ('setup: ["a\\0b", b]', "setup holds a zero byte; mend: take it out"),
        ('setup: [""]', "setup is a list of shell lines; mend: for example "),
        ("gpus: a100:1000001", "gpus=a100:1000001 is neither a whole number nor TYPE:NUMBER"),
        ("throttle: 1000001", "throttle=1000001 is not a whole number"),
        ("throttle: -1", "throttle=-1 is below 0; mend: for example `throttle: 1`"),
        (["gpu"], "holds no settings of the form `key: value`; mend: for example "),
        ("a: [", "cannot be read"),
    ],
)
def test_a_broken_profile_is_refused_by_name(tmp_path: Path, content: object, part: str) -> None:
    assert_refused_by_name(load, write_yaml(tmp_path / "mine.yaml", content), part)


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "gone.yaml")
    assert message_of(lambda: load(path)) == f"cluster profile {path} does not exist; mend: check the path"


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
    with pytest.raises(
        UserError, match=r"'clusters/other'; mend: [^/]*; or give a file's path, with its \.yaml at the end$"
    ):
        load("clusters/other")


def written(name: str, place: Path) -> str:
    """The scripts of a small sweep by a profile, without what differs between calls or machines."""
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
    path = SCRIPTS / f"{name}.sh"
    text = written(name, tmp_path)
    if os.environ.get("SALMASK_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
    assert "29500" not in text
    assert "CUDA_VISIBLE_DEVICES" not in text


def test_an_array_that_slurm_would_refuse_is_split(tmp_path: Path) -> None:
    graph = expand(Sweep("many", (Part(("mocov2",), tuple(range(7)), ("linear",)),)), tmp_path, resolve, {})
    texts = [script for _, script in scripts(graph, Cluster("c", resources=Resources(throttle=2), max_array=3), CODE)]
    arrays = [re.findall(r"--array=(\S+)", script) for script in texts]
    assert arrays == [["0-2%1"], ["0-2%1"], [], ["0-2%1"], ["0-2%1"], [], []]
    assert [re.findall(r"--dependency='?(\w+)", script) for script in texts] == [
        *([], ["afterany"], ["afterany"]),  # one array of the lane after the other
        *(["aftercorr"], ["aftercorr"], ["afterok"]),
        ["afterany"],
    ]
    assert not list(tmp_path.iterdir())  # showing writes nothing
    assert _array_limit(Cluster("c", max_array=3)) == 3  # as a launch splits it, without a question to Slurm


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
