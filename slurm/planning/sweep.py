"""A sweep: methods × seeds of one setting, as a file, expanded to a graph of jobs.

    methods: [mocov2, mocov2+ours-hp]          # rows of the tables
    seeds: [0, 1, 2]
    tasks: [linear, linear@caltech101]         # on the data of the pretraining, or TASK@DATASET
    table: table1                              # or a list: what the report renders
    settings: {optimization: {epochs: 100}}    # over the method's own

or in parts; what a part does not say is taken from the file, and its settings are merged into the file's:

    seeds: [0, 1, 2]
    settings: {optimization: {epochs: 100}}
    parts:
      - {methods: [mocov2], settings: {optimization: {lr: 0.06}}}
      - {methods: [simclr]}

or several sweeps as one, in which a pretraining that they share runs once:

    include: [table1, table2]

`{task: linear, data: caltech101}` is the same as `linear@caltech101`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from repro.data.catalogue import find_dataset
from repro.errors import UserError, nearest
from repro.filesystem.paths import CODE_ROOT
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.settings.reading import flat, nested, read_yaml
from repro.settings.rows import Resolve
from repro.settings.yaml_text import decimal
from slurm.planning.graph import Graph, Job, make_graph

SWEEPS = CODE_ROOT / "slurm" / "sweeps"
FILES = (".yaml", ".yml")
"""How the name of a user's own file ends; any other word is the name of a sweep that comes with salmask."""


@dataclass(frozen=True)
class Part:
    """Methods × seeds with the same settings, their evaluations, and the tables that show them."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...] = ("linear",)
    table: tuple[str, ...] = ("table1",)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """What a file describes."""

    name: str
    parts: tuple[Part, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that the report renders, each once."""
        return tuple(dict.fromkeys(table for part in self.parts for table in part.table))


def known_sweeps() -> list[str]:
    """Returns the names of the sweeps that come with salmask."""
    return sorted(file.stem for file in SWEEPS.glob("*.yaml"))


def load(name: str) -> Sweep:
    """Reads a sweep by name, or from a YAML file.

    Raises:
        UserError: There is none of that name, or the file is broken.
    """
    path = _path(name)
    return Sweep(path.stem, tuple(_parts(path, ())))


def _path(name: str) -> Path:
    path = Path(name)
    if path.suffix in FILES:
        return path
    if name not in known_sweeps():
        raise UserError(f"unknown sweep '{name}'", mend=f"{nearest(name, known_sweeps())}, or the path of a .yaml file")
    return SWEEPS / f"{name}.yaml"


def _parts(path: Path, including: tuple[Path, ...]) -> list[Part]:
    """Reads the parts of a file, and those of the files that it includes.

    Args:
        path: The file.
        including: The files that include it, directly or not; to include one of them again would never end.
    """
    content = read_yaml(path)
    if path.resolve() in including:
        raise UserError(f"{path}: a sweep cannot include itself", mend="take it out of `include`")
    if "include" in content:
        mend = "for example `include: [table1, table2]`"
        if set(content) != {"include"} or not isinstance(content["include"], list):
            raise UserError(f"{path}: `include` stands alone in a file", mend=mend)
        if not content["include"]:
            raise UserError(f"{path}: `include` names no sweep", mend=mend)
        names = [_name(path, "include", name) for name in content["include"]]
        files = [path.parent / name if name.endswith(FILES) else _path(name) for name in names]
        return [part for file in files for part in _parts(file, (*including, path.resolve()))]
    if "parts" not in content:
        return [_part(path, content)]
    parts = content.pop("parts")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: `parts` is a list of mappings", mend="for example `parts: [{methods: [mocov2]}]`")
    return [_part(path, _joined(path, content, part)) for part in parts]


def _joined(path: Path, shared: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a part of a file; what it does not say itself is taken from the file."""
    # Settings are joined key by key, so that a part can change one of them; every other key is replaced as a whole.
    layers = [_settings(path, content) for content in (shared, part)]
    return {**shared, **part, "settings": OmegaConf.to_container(OmegaConf.merge(*layers))}


def _settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings are a mapping", mend="for example `settings: {data.crop: 64}`")
    return nested(settings)


def _part(path: Path, content: dict[str, Any]) -> Part:
    """Returns a part as a file describes it, checked."""
    part_keys = [f.name for f in fields(Part)]
    for key in content:
        if key in ("parts", "include"):
            raise UserError(f"{path}: `{key}` stands at the top of a file, not within a part", mend="move it there")
        if key not in part_keys:
            raise UserError(f"{path}: unknown key '{key}'", mend=nearest(key, [*part_keys, "parts", "include"]))
    for key in ("methods", "seeds"):
        if content.get(key) in (None, [], ""):
            mend = "for example `methods: [mocov2]` and `seeds: [0, 1, 2]`"
            raise UserError(f"{path}: a sweep needs methods and seeds", mend=mend)
    for key, read in _READERS.items():
        if key in content:
            content[key] = _items(path, key, content[key], read)
    return Part(**{**content, "settings": _settings(path, content)})


def _items(path: Path, key: str, value: Any, read: Callable[[Path, str, Any], Any]) -> tuple[Any, ...]:
    """Returns what a key lists, one value or several, each once."""
    if value is None:
        raise UserError(f"{path}: {key} has no value", mend="take the line out, or write [] for none")
    items = tuple(read(path, key, item) for item in (value if isinstance(value, list) else [value]))
    twice = [item for number, item in enumerate(items) if item in items[:number]]
    if twice:
        raise UserError(f"{path}: {key} holds {twice[0]} twice", mend="take one out")
    return items


def _name(path: Path, key: str, item: Any) -> str:
    if not isinstance(item, str) or not item:
        kind = type(item).__name__ if isinstance(item, (list, dict)) else repr(item)
        raise UserError(f"{path}: {key} are names, not {kind}", mend=f"for example `{key}: [{_EXAMPLES[key]}]`")
    return item


def _seed(path: Path, _: str, item: Any) -> int:
    item = decimal(item)
    if type(item) is not int:  # isinstance would let `true` pass as 1
        raise UserError(f"{path}: seeds are whole numbers", mend="for example `seeds: [0, 1, 2]`")
    return item


def _task(path: Path, _: str, task: Any) -> str:
    if isinstance(task, str) and task:
        return task
    if isinstance(task, dict) and set(task) <= {"task", "data"} and isinstance(task.get("task"), str):
        dataset = task.get("data")
        if dataset is None or (dataset and isinstance(dataset, str)):
            return f"{task['task']}@{dataset}" if dataset else str(task["task"])
    mend = "write linear, linear@caltech101 or {task: linear, data: caltech101}"
    raise UserError(f"{path}: {task} is not a task", mend=mend)


_READERS: Mapping[str, Callable[[Path, str, Any], Any]] = {
    "methods": _name,
    "seeds": _seed,
    "tasks": _task,
    "table": _name,
}
"""What reads an item of each key that holds a list."""
_EXAMPLES = {"methods": "mocov2", "table": "table1", "include": "table1"}


def narrowed(sweep: Sweep, methods: Sequence[str], seeds: Sequence[int], tasks: Sequence[str] = ()) -> Sweep:
    """Returns the sweep with only these methods, seeds and tasks, where any are named.

    Seeds replace those of the sweep. Methods and tasks do so if the sweep has one part; if it has several, each part
    keeps those of its own that are named.

    Args:
        sweep: What is narrowed.
        methods: Names of methods; none: all that it has.
        seeds: None: all that it has.
        tasks: Names of tasks; none: all that it has.

    Raises:
        UserError: The sweep has several parts, and none of them has a method or task that is named.
    """
    if len(sweep.parts) == 1:
        (single,) = sweep.parts
        replaced = replace(
            single,
            methods=tuple(methods) or single.methods,
            seeds=tuple(seeds) or single.seeds,
            tasks=tuple(tasks) or single.tasks,
        )
        return Sweep(sweep.name, (replaced,))
    for kind, names, available in (
        ("method", methods, [method for part in sweep.parts for method in part.methods]),
        ("task", tasks, [task for part in sweep.parts for task in part.tasks]),
    ):
        for name in names:
            if name not in available:
                mend = nearest(name, dict.fromkeys(available))
                raise UserError(f"sweep {sweep.name} has no {kind} '{name}'", mend=mend)
    parts = [
        replace(
            part,
            methods=tuple(name for name in part.methods if not methods or name in methods),
            seeds=tuple(seeds) or part.seeds,
            tasks=tuple(name for name in part.tasks if not tasks or name in tasks),
        )
        for part in sweep.parts
    ]
    return Sweep(sweep.name, tuple(part for part in parts if part.methods and (part.tasks or not tasks)))


def expand(sweep: Sweep, out: Path, resolve: Resolve, overrides: Mapping[str, Any]) -> Graph:
    """Returns every job of a sweep, pretrainings before what builds on them.

    Args:
        sweep: What to run.
        out: Folder of the sweep.
        resolve: Turns a method and layers of settings into a Run.
        overrides: Settings that replace the sweep's.

    Raises:
        UserError: A method, task, data set or setting is unknown, or a sweep would ignore a setting.
    """
    jobs = []
    for part in sweep.parts:
        origin = f"sweep {sweep.name}"
        _refuse_what_would_be_ignored(part.settings, overrides)
        recipes = {method: resolve(method, part.settings, overrides, origin=origin) for method in part.methods}
        # The first seed of every method before the second: what is stopped half-way has whole rows of a table.
        for seed in part.seeds:
            for recipe in recipes.values():
                run = recipe.with_seed(seed)
                folder = RunFolder.of(run, out)
                # Parsed and named again: `linear@imagenet100` of a run on imagenet100 is the same job as `linear`.
                evaluations = [Evaluation.parse(task, run) for task in part.tasks]
                for dataset in {evaluation.dataset for evaluation in evaluations}:
                    find_dataset(dataset)  # refuses an unknown name before anything runs
                tasks = [evaluation.name(run) for evaluation in evaluations]
                jobs += [Job(run, folder, task) for task in (PRETRAIN, *tasks)]
    return replace(make_graph(out, jobs, sweep.tables), settings=_shared_settings(sweep, overrides))


def _shared_settings(sweep: Sweep, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that all parts of a sweep have in common, by `section.key`."""
    of_parts = [{**dict(flat(part.settings)), **dict(flat(overrides))} for part in sweep.parts]
    shared = dict(of_parts[0]) if of_parts else {}
    for settings in of_parts:
        shared = {name: value for name, value in shared.items() if name in settings and settings[name] == value}
    return shared


def _refuse_what_would_be_ignored(*layers: Mapping[str, Any]) -> None:
    """Refuses settings that a sweep would ignore: it has seeds of its own, and skips what is recorded."""
    for settings in map(nested, layers):
        if "seed" in settings:
            seed = settings["seed"]
            mend = f"--seeds {seed}, or `seeds: [{seed}]` in the sweep's file"
            raise UserError(f"seed={seed} is not a setting of a sweep", mend=mend)
        detection = settings.get("detection")
        if isinstance(detection, Mapping) and detection.get("evaluate_only"):
            mend = "salmask eval RUN --task TASK detection.evaluate_only=true"
            raise UserError("detection.evaluate_only=true is not a setting of a sweep", mend=mend)
