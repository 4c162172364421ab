"""Cluster profiles: what jobs ask for on a cluster, as YAML; the code knows nothing of any cluster.

    partition: gpu             # or several: [gpu, long]
    account: my-lab
    gpus: a100:1               # per node, with one process for each; a number, or TYPE:NUMBER
    cpus: 8                    # per process
    memory: 32                 # GB per node
    time: 1-00:00:00           # as Slurm reads it
    setup: [module load cuda]  # lines of shell before the job
    scratch: $SCRATCH/salmask  # where sweeps go unless --out says so; default: ./runs
    tasks:                     # what some tasks ask for instead, by name (`linear`, or `linear@caltech101`)
      report: {gpus: 0, cpus: 2, memory: 8, time: 30}

The keys are the fields of `Resources` and `Cluster`; docs/cluster.md explains each. What is left out is not asked for.
A profile is named by the path of its file, or found by name in `~/.config/salmask/clusters/` (the user's), then in
`slurm/clusters/`. It is checked whole when it is read (`slurm.profiles.profile_values` reads the values).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from repro.data.catalogue import DATASETS
from repro.errors import UserError, nearest
from repro.filesystem.clutter import is_clutter
from repro.filesystem.paths import CODE_ROOT, expanded
from repro.runs.evaluation import PROTOCOLS, task_and_dataset
from repro.runs.status import PRETRAIN
from slurm.profiles import profile_values as values
from slurm.sweep_folder.ledger import REPORT

BUILT_IN = CODE_ROOT / "slurm" / "clusters"
EXECUTORS = ("slurm", "local", "debug")
DEFAULT = "default"
"""Name of the profile that is used where none is named, if the user has one."""
RUNS = Path("runs")
"""Where sweeps go unless a profile or the command line says otherwise."""
TASKS = (PRETRAIN, *PROTOCOLS, REPORT)
"""All tasks that a job may have, without the data set of an evaluation."""
ONE_PROCESS_TASKS = frozenset({REPORT, "logistic"})
"""Tasks that run in one process, whatever a profile says for all of them."""

_SET_BY_SALMASK = (
    *("array", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "open-mode", "output"),
    *("parsable", "requeue", "signal", "test-only", "wrap"),
)
"""Options of sbatch that `extra` may not hold: a launch relies on the values that it gives them."""
_MISLEADING = {
    "clusters": "export SLURM_CLUSTERS, by which jobs are found again too",
    "wait": "take it out; salmask status --watch looks until all is over",
}
"""Options of sbatch that `extra` may not hold either, and the mend. Jobs of another cluster are not in the queue that a
launch looks at, and would be submitted again; an sbatch that waits for its job to end counts as one that hangs."""
_HAS_KEY = {
    "cpus-per-task": "cpus",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-socket": "gpus",
    "gpus-per-task": "gpus",
    "gres": "gres",
    "nodes": "nodes",
    "ntasks": "processes",
    "ntasks-per-gpu": "processes",
    "ntasks-per-node": "processes",
    "time": "time",
}
"""Options of sbatch that `extra` may not hold either, and the key to use, on which plans and launches rely."""
_CONTRADICTS = {
    "cpus-per-gpu": "cpus",
    "mem": "memory",
    "mem-per-cpu": "memory",
    "mem-per-gpu": "memory",
}
"""Options of sbatch that `extra` may hold only if this key is not set; the same holds for options named like a key."""
_SRUN_BY_SALMASK = (
    "--cpus-per-task",
    "--error",
    "--kill-on-bad-exit",
    "--nodes",
    "--ntasks",
    "--output",
    "--unbuffered",
)

Reader = Callable[[str, str, Any], Any]
"""`reader(where, key, value)` returns a value as it is kept; see `slurm.profiles.profile_values`."""


def _setting(reader: Reader, default: Any) -> Any:
    """Returns a field that a profile can set, with how its value is read."""
    return field(default=default, metadata={"reader": reader})


@dataclass(frozen=True)
class Resources:
    """What one job asks for; an empty text or 0 asks for nothing, and the cluster's default applies."""

    partition: str = _setting(values.names, "")
    """One, or several with commas between, of which Slurm takes the one that is free first."""
    account: str = _setting(values.text, "")
    qos: str = _setting(values.text, "")
    constraint: str = _setting(values.text, "")
    reservation: str = _setting(values.names, "")
    licenses: str = _setting(values.names, "")
    nodelist: str = _setting(values.names, "")
    exclude: str = _setting(values.names, "")
    nice: int | None = _setting(values.any_number, None)
    comment: str = _setting(values.text, "")
    mail_user: str = _setting(values.text, "")
    mail_type: str = _setting(values.names, "")
    gres: str = _setting(values.names, "")
    nodes: int = _setting(values.whole_number, 1)
    gpus: int = _setting(values.gpus, 0)
    """Per node; those that `gres` asks for are counted here too."""
    gpu_type: str = ""
    """The TYPE of `gpus: TYPE:NUMBER`; it is no key of its own."""
    processes: int = _setting(values.whole_number, 0)
    """Per node; 0: one for each GPU, at least one."""
    cpus: int = _setting(values.whole_number, 0)
    """Per process."""
    memory: float = _setting(values.gigabytes, 0.0)
    """GB per node."""
    time: int = _setting(values.minutes, 0)
    """Minutes."""
    throttle: int = _setting(values.whole_number, 0)
    """Jobs of a sweep at a time (`slurm.submission.lanes`); under a task, jobs of each of its arrays; 0: no limit."""
    extra: tuple[tuple[str, str], ...] = _setting(values.options, ())
    """Other options of sbatch."""
    srun: tuple[str, ...] = _setting(values.words, ())
    """Options of srun, such as `--mpi=pmix` or pyxis' `--container-image=FILE`."""
    python: str = _setting(values.one_word_or_line, "")
    """What starts Python on a node, as the shell reads it, such as `apptainer exec --nv FILE python`; empty: this
    process's own."""
    setup: tuple[str, ...] = _setting(values.lines, ())
    """Lines of shell before the job."""

    @property
    def tasks_per_node(self) -> int:
        """How many processes run on each node."""
        return self.processes or max(1, self.gpus)

    @property
    def gpus_option(self) -> str | int:
        """What `--gpus-per-node` gets; empty where no GPU is asked for, or `gres` asks for them."""
        if not self.gpus or values.gpus_of_gres(self.gres):
            return ""
        return f"{self.gpu_type}:{self.gpus}" if self.gpu_type else self.gpus


@dataclass(frozen=True)
class Cluster:
    """A profile; its settings are explained at the top of this module."""

    name: str
    """`mycluster`; of a profile that is found by its path alone, the file's name, `mycluster.yaml`."""
    executor: str = "slurm"
    """`slurm`, `local` or `debug` (in this process)."""
    resources: Resources = Resources()
    """What every task asks for that `tasks` does not name."""
    tasks: Mapping[str, Resources] = field(default_factory=dict)
    scratch: str = _setting(values.one_word_or_line, "")
    """Where sweeps go unless `--out` says so; empty: `./runs`."""
    max_array: int = _setting(values.whole_number, 0)
    """The most jobs in an array; 0: Slurm's own limit."""
    attempts: int = _setting(values.whole_number, 30)
    """How often a job may begin, requeues included."""
    signal_seconds: int = _setting(values.whole_number, 120)
    """How long before its time limit a job is warned; 0: it is not."""

    def resources_of(self, task: str) -> Resources:
        """Returns what a task asks for: `linear@caltech101` by its whole name, else as `linear`, else as all tasks.

        A task that runs in one process gets one, and at most one of the GPUs that all tasks ask for.
        """
        kind = task_and_dataset(task)[0]
        own = self.tasks.get(task) or self.tasks.get(kind)
        return own or (in_one_process(self.resources) if kind in ONE_PROCESS_TASKS else self.resources)

    @property
    def sweeps_folder(self) -> Path:
        """The folder that sweeps go to.

        Raises:
            UserError: `scratch` names a variable that is not set.
        """
        if not self.scratch:
            return RUNS
        return expanded(values.text(f"cluster '{self.name}'", "scratch", self.scratch))


def user_folder() -> Path:
    """Returns the folder of the user's own profiles; it need not exist."""
    return platformdirs.user_config_path("salmask") / "clusters"


def available() -> dict[str, Path]:
    """Returns every profile by name; the user's own hide ours of the same name."""
    files = (path for folder in (BUILT_IN, user_folder()) for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in files if not is_clutter(path.name)}


_SUFFIXES = (".yaml", ".yml")
"""How the path of a profile ends; a word that ends in another way is a profile's name."""


def load(name: str) -> Cluster:
    """Reads a profile by name, or from a YAML file, and checks it whole.

    Raises:
        UserError: There is none of that name, or the file is broken.
    """
    path = Path(name)
    if path.suffix not in _SUFFIXES:
        return load_named(name)
    return _cluster(path, values.read_file(expanded(path)))


def load_named(name: str) -> Cluster:
    """Reads a profile by name, as a ledger holds it, and never by a path.

    A sweep from elsewhere could name a file that comes with it, whose lines of `setup` a launch would run.

    Raises:
        UserError: There is none of that name, or its file is broken.
    """
    profiles = available()
    if name not in profiles:
        if Path(name).suffix in _SUFFIXES:  # a launch by a file, whose name alone a ledger holds
            mend = "or give the path of that file"
        elif "/" in name:
            mend = "or give a file's path, with its .yaml at the end"
        else:
            mend = f"or write {user_folder() / f'{name}.yaml'}, or give a file's path"
        raise UserError(f"unknown cluster '{name}'", mend=f"{nearest(name, profiles)}; {mend}")
    return _cluster(profiles[name], values.read_file(profiles[name]))


def keys_of(kind: type) -> dict[str, Reader]:
    """Returns the keys of a profile that are fields of `Resources` or `Cluster`, each with the reader of its value."""
    return {f.name: f.metadata["reader"] for f in fields(kind) if "reader" in f.metadata}


def _cluster(path: Path, content: dict[str, Any]) -> Cluster:
    cluster_keys, resource_keys = keys_of(Cluster), keys_of(Resources)
    where = str(path)
    _check_keys(where, content, [*resource_keys, *cluster_keys, "executor", "tasks"])
    executor = values.text(where, "executor", content.get("executor", "slurm"))
    if executor not in EXECUTORS:
        raise UserError(f"{path}: executor '{executor}' is unknown", mend=f"one of {', '.join(EXECUTORS)}")
    resources = _resources(where, {key: content[key] for key in content if key in resource_keys}, Resources())
    own = {key: reader(where, key, content[key]) for key, reader in cluster_keys.items() if key in content}
    cluster = Cluster(
        values.one_word_or_line(where, "the file's name", _name_of(path)),
        executor,
        resources,
        _tasks(where, content.get("tasks", {}), resources),
        **own,
    )
    if cluster.attempts < 1:
        raise UserError(f"{path}: attempts={cluster.attempts} lets nothing run", mend="1 or more")
    for task, asked in {"": resources, **cluster.tasks}.items():
        _check_warning(_place(where, task), asked.time, cluster.signal_seconds)
    return cluster


def _name_of(path: Path) -> str:
    """Returns what a ledger calls a profile: its name if `load_named` finds this file by it, else the file's name.

    A copy of `slurm.yaml` elsewhere is not `slurm`: a retry would read ours in its place.
    """
    known = available().get(path.stem)
    return path.stem if known is not None and known.resolve() == expanded(path).resolve() else path.name


def _tasks(where: str, content: Any, base: Resources) -> dict[str, Resources]:
    """Returns what single tasks ask for; a task's own settings stand in the place of those of the profile."""
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise UserError(f"{where}: tasks are a mapping", mend="for example `tasks: {linear: {gpus: 1}}`")
    tasks = {}
    for key, settings in content.items():
        name = values.one_word_or_line(where, "a name below tasks", key)
        task, dataset = task_and_dataset(name)
        if task not in TASKS:
            raise UserError(f"{where}: tasks names '{task}', which is not a task", mend=nearest(task, TASKS))
        if "@" in name and dataset not in DATASETS:
            raise UserError(f"{where}: tasks names the unknown data set '{dataset}'", mend=nearest(dataset, DATASETS))
        place = _place(where, name)
        _check_keys(place, settings, list(keys_of(Resources)))
        single = task in ONE_PROCESS_TASKS
        tasks[name] = _resources(place, settings, in_one_process(base) if single else base)
        if single and tasks[name].nodes * tasks[name].tasks_per_node > 1:
            raise UserError(f"{place}: {task} runs in one process", mend="take `nodes` and `processes` out")
    return tasks


def in_one_process(base: Resources) -> Resources:
    """Returns what all tasks ask for, for one process and at most one GPU."""
    gres = base.gres if base.gpus <= 1 else values.gres_with_one_gpu(base.gres)
    return replace(base, nodes=1, processes=1, gpus=min(base.gpus, 1), gres=gres)


def _place(where: str, task: str) -> str:
    return f"{where}, {task}" if task else where


def _check_keys(where: str, content: Mapping[str, Any], known_keys: list[str]) -> None:
    for key in content:
        if key not in known_keys:
            raise UserError(f"{where}: unknown key '{key}'", mend=nearest(str(key), known_keys))


def _resources(where: str, content: Mapping[str, Any], base: Resources) -> Resources:
    """Returns the resources of `base` with what a file says of them."""
    readers = keys_of(Resources)
    changes: dict[str, Any] = {key: readers[key](where, key, value) for key, value in content.items()}
    for key in ("nodes", "cpus"):
        if changes.get(key) == 0:
            raise UserError(f"{where}: {key}=0 lets nothing run", mend="1 or more, or take the line out")
    by_gres = values.gpus_of_gres(changes.get("gres", ""))
    if "gpus" in changes:
        changes["gpu_type"], changes["gpus"] = changes["gpus"]
        if by_gres:
            raise UserError(f"{where}: gpus and gres both ask for GPUs", mend="`gpus` alone, or `gres` alone")
        changes.setdefault("gres", values.gres_without_gpus(base.gres))  # of the two, what the task says itself counts
    elif by_gres:
        changes |= {"gpus": by_gres, "gpu_type": values.gpu_type_of_gres(changes["gres"])}
    elif "gres" in changes and values.gpus_of_gres(base.gres):
        changes |= {"gpus": 0, "gpu_type": ""}
    resources = replace(base, **changes)
    _check_options(where, resources)
    return resources


def _check_options(where: str, resources: Resources) -> None:
    """Refuses options that contradict what other keys ask for: sbatch would take the last one, whichever that is."""
    for option, _ in resources.extra:
        if option in _SET_BY_SALMASK:
            raise UserError(f"{where}: extra holds {option}, which salmask sets itself", mend="take it out")
        if option in _MISLEADING:
            raise UserError(f"{where}: extra holds {option}, with which a launch cannot work", mend=_MISLEADING[option])
        if option in _HAS_KEY:
            key = _HAS_KEY[option]
            raise UserError(f"{where}: extra holds {option}, which has a key of its own", mend=f"write `{key}: …`")
        key = _CONTRADICTS.get(option, option.replace("-", "_"))
        if key in keys_of(Resources) and getattr(resources, key) not in ("", 0, None):
            raise UserError(f"{where}: extra holds {option}, and {key} is set too", mend="keep one of them")
    for word in resources.srun:
        name = word.partition("=")[0].split(maxsplit=1)[0]
        if name in _SRUN_BY_SALMASK:
            raise UserError(f"{where}: srun holds {name}, which salmask sets itself", mend="take it out")


def _check_warning(where: str, time: int, signal_seconds: int) -> None:
    """Refuses a warning that comes in the first half of a job: an attempt would end before it has done anything."""
    # Slurm may send the signal up to a minute early (`man sbatch`).
    if time in (1, 2) and signal_seconds and signal_seconds >= 60 * (time - 1):
        what = f"{where}: with signal_seconds={signal_seconds} and time={time}, a job may be warned as it starts"
        raise UserError(what, mend=f"a longer `time`, or `signal_seconds: {30 * (time - 1)}`")
    if time and 2 * signal_seconds > 60 * time:
        raise UserError(
            f"{where}: signal_seconds={signal_seconds} is more than half of the time limit of {time} min",
            mend="a longer `time`, or a smaller `signal_seconds`",
        )
