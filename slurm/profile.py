"""Cluster profiles: what a job asks for where, as YAML; nothing about any cluster stands in the code.

    executor: slurm            # slurm, local or debug (in this process)
    partition: gpu             # also: account, qos, constraint, exclude, gres, reservation
    nodes: 1
    gpus: 1                    # of a node; a process each
    processes: 1               # of a node; only where it is not the number of GPUs
    cpus: 8                    # of a process
    memory: 32                 # GB of a node
    time: 1-00:00:00           # D-HH:MM:SS, HH:MM:SS, or minutes
    extra: {mail-type: FAIL}   # any other option of sbatch
    setup: [module load cuda]  # lines of shell before the job
    scratch: $SCRATCH/salmask  # where sweeps go unless --out says so; default: ./runs
    throttle: 16               # jobs of an array at a time; default: as many as there are
    max_array: 1000            # jobs in an array; default: as many as Slurm says
    attempts: 30               # of a job, requeues included
    signal_seconds: 120        # the warning before a time limit
    tasks:                     # what some tasks ask for instead, by name (`linear`, or `linear@caltech101`)
      report: {gpus: 0, cpus: 2, memory: 8, time: 30}

A profile is found by name in `~/.config/salmask/clusters/` (the user's), then here in `clusters/`; or it is the path of
a file.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from repro.errors import UserError, nearest, one_line
from repro.runs.evaluation import task_and_dataset

BUILT_IN = Path(__file__).parent / "clusters"
EXECUTORS = ("slurm", "local", "debug")
DEFAULT = "default"
"""Name of the profile that is used where none is named, if the user has one."""
RUNS = Path("runs")
"""Where sweeps go unless a profile or the command line says otherwise."""
_TIME = re.compile(r"(?:(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d\d)(?::(?P<seconds>\d\d))?)")


@dataclass(frozen=True)
class Resources:
    """What one job asks for; an empty text or 0 asks for nothing, and the cluster's default holds."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    gres: str = ""
    reservation: str = ""
    nodes: int = 1
    gpus: int = 0
    """Of a node."""
    processes: int = 0
    """Of a node; 0: one for each GPU, at least one."""
    cpus: int = 1
    """Of a process."""
    memory: float = 0.0
    """GB of a node."""
    time: int = 60
    """Minutes."""
    extra: tuple[tuple[str, str], ...] = ()
    """Other options of sbatch."""

    @property
    def tasks_per_node(self) -> int:
        """How many processes run on each node."""
        return self.processes or max(1, self.gpus)


@dataclass(frozen=True)
class Cluster:
    """A profile; its settings are explained at the top of this module."""

    name: str
    executor: str = "slurm"
    resources: Resources = Resources()
    """What every task asks for that `tasks` does not name."""
    tasks: Mapping[str, Resources] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    scratch: str = ""
    throttle: int = 0
    max_array: int = 0
    attempts: int = 30
    signal_seconds: int = 120

    def resources_of(self, task: str) -> Resources:
        """Returns what a task asks for: `linear@caltech101` by its whole name, else as `linear`, else as all."""
        return self.tasks.get(task) or self.tasks.get(task_and_dataset(task)[0]) or self.resources

    @property
    def sweeps_folder(self) -> Path:
        """The folder that sweeps go to."""
        return Path(os.path.expandvars(self.scratch)).expanduser() if self.scratch else RUNS


def user_folder() -> Path:
    """Returns the folder of the user's own profiles; it need not exist."""
    return platformdirs.user_config_path("salmask") / "clusters"


def available() -> dict[str, Path]:
    """Returns every profile by name; the user's own hide ours of the same name."""
    return {path.stem: path for folder in (BUILT_IN, user_folder()) for path in sorted(folder.glob("*.yaml"))}


def load(name: str) -> Cluster:
    """Reads a profile by name, or from a YAML file.

    Raises:
        UserError: there is none of that name, or the file is broken.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        profiles = available()
        if name not in profiles:
            raise UserError(
                f"unknown cluster '{name}'",
                mend=f"{nearest(name, profiles)}; or write {user_folder() / f'{name}.yaml'}, or give a file's path",
            )
        path = profiles[name]
    try:
        # Everything as text: YAML would read 10:00:00 as a number to the base of 60.
        content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise UserError(f"cluster profile {path} does not exist", mend="check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error)
        mend = "check that it is YAML and may be read"
        raise UserError(f"cluster profile {path} cannot be read: {reason}", mend=mend) from error
    if not isinstance(content, dict):
        mend = "for example `partition: gpu`"
        raise UserError(f"cluster profile {path} holds no settings of the form `key: value`", mend=mend)
    return _cluster(path, content)


def _cluster(path: Path, content: dict[str, Any]) -> Cluster:
    cluster_keys = {f.name for f in fields(Cluster)} - {"name", "resources"}
    resource_keys = {f.name for f in fields(Resources)}
    _check_keys(path, content, sorted(cluster_keys | resource_keys))
    resources = _resources(path, {key: content[key] for key in content if key in resource_keys}, Resources())
    special = content.get("tasks", {})
    if not isinstance(special, dict) or not all(isinstance(value, dict) for value in special.values()):
        raise UserError(f"{path}: tasks are a mapping", mend="for example `tasks: {linear: {gpus: 1}}`")
    for value in special.values():
        _check_keys(path, value, sorted(resource_keys))
    if not isinstance(content.get("setup", []), list):
        raise UserError(f"{path}: setup is a list of shell lines", mend="for example `setup: [module load cuda]`")
    cluster = Cluster(
        name=path.stem,
        executor=str(content.get("executor", "slurm")),
        resources=resources,
        # A task's own settings stand over those of the profile, so that it names only what differs.
        tasks={task: _resources(path, value, resources) for task, value in special.items()},
        setup=tuple(content.get("setup", ())),
        scratch=str(content.get("scratch", "")),
        **{
            key: _whole_number(path, key, content[key])
            for key in ("throttle", "max_array", "attempts", "signal_seconds")
            if key in content
        },
    )
    if cluster.executor not in EXECUTORS:
        raise UserError(f"{path}: executor '{cluster.executor}' is unknown", mend=f"one of {', '.join(EXECUTORS)}")
    if cluster.attempts < 1:
        raise UserError(f"{path}: attempts={cluster.attempts} lets nothing run", mend="1 or more")
    return cluster


def _check_keys(path: Path, content: Mapping[str, Any], known_keys: list[str]) -> None:
    for key in content:
        if key not in known_keys:
            raise UserError(f"{path}: unknown key '{key}'", mend=nearest(key, known_keys))


def _resources(path: Path, content: Mapping[str, Any], base: Resources) -> Resources:
    """Returns the resources of `base` with what a file says of them."""
    changes: dict[str, Any] = {}
    for key, value in content.items():
        if key == "time":
            changes[key] = minutes(path, value)
        elif key == "memory":
            changes[key] = _gigabytes(path, key, value)
        elif key == "extra":
            if not isinstance(value, dict):
                raise UserError(f"{path}: extra is a mapping of sbatch's options", mend="for example {mail-type: FAIL}")
            changes[key] = tuple((str(name), str(text)) for name, text in value.items())
        else:
            kind = int if isinstance(getattr(base, key), int) else str
            changes[key] = _whole_number(path, key, value) if kind is int else str(value)
    resources = replace(base, **changes)
    if resources.nodes < 1 or resources.cpus < 1 or resources.time < 1:
        raise UserError(f"{path}: nodes, cpus and time are at least 1", mend="set none of them to 0")
    return resources


def minutes(path: Path, text: str) -> int:
    """Returns the whole minutes, rounded up, of `D-HH:MM:SS`, `HH:MM:SS`, `HH:MM` or a number of minutes.

    Args:
        path: the file that says it, for the error.
        text: the time.

    Raises:
        UserError: it is none of them.
    """
    if str(text).isdigit():
        return int(text)
    match = _TIME.fullmatch(str(text))
    if not match:
        raise UserError(f"{path}: time={text} is no time", mend="write minutes, HH:MM:SS or D-HH:MM:SS")
    units = {name: int(value or 0) for name, value in match.groupdict().items()}
    return 24 * 60 * units["days"] + 60 * units["hours"] + units["minutes"] + (units["seconds"] > 0)


def _whole_number(path: Path, key: str, value: Any) -> int:
    if not str(value).isdigit():
        raise UserError(f"{path}: {key}={value} is no whole number", mend=f"for example `{key}: 1`")
    return int(value)


def _gigabytes(path: Path, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1e6:
        raise UserError(f"{path}: {key}={value} is no number of gigabytes", mend=f"for example `{key}: 64`")
    return number
