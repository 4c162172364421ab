"""A sweep: methods × seeds of one setting, as a file, expanded to a graph of jobs.

    methods: [mocov2, mocov2+ours-hp]          # rows of the tables
    seeds: [0, 1, 2]
    tasks: [linear, linear@caltech101]         # on the data of the pretraining, or TASK@DATASET
    table: table1                              # or a list: what the report renders
    settings: {optimization: {epochs: 100}}    # over the method's own

or in parts, each with what it does not say itself from the file, its settings joined to the file's:

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

from repro.errors import UserError, nearest
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.reading import nested, read_yaml
from repro.runs.run import Run
from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, make_graph

SWEEPS = Path(__file__).parent / "sweeps"
Resolve = Callable[..., Run]
"""`resolve(method, *layers) -> Run`; the caller knows the methods, a launcher does not."""


@dataclass(frozen=True)
class Part:
    """Methods × seeds of one setting, and what becomes of them."""

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
        """What the report renders."""
        return tuple(dict.fromkeys(table for part in self.parts for table in part.table))


def known_sweeps() -> list[str]:
    """Names of the sweeps that come with salmask."""
    return sorted(file.stem for file in SWEEPS.glob("*.yaml"))


def load(name: str) -> Sweep:
    """A sweep by name, or from a YAML file.

    Raises:
        UserError: there is none of that name, or the file is broken.
    """
    path = _path(name)
    return Sweep(path.stem, tuple(_parts(path, ())))


def _path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    if name not in known_sweeps():
        raise UserError(f"unknown sweep '{name}'", mend=f"{nearest(name, known_sweeps())}, or the path of a .yaml file")
    return SWEEPS / f"{name}.yaml"


def _parts(path: Path, within: tuple[Path, ...]) -> list[Part]:
    content = read_yaml(path)
    if path.resolve() in within:
        raise UserError(f"{path}: a sweep cannot include itself")
    if "include" in content:
        if set(content) != {"include"} or not isinstance(content["include"], list):
            raise UserError(f"{path}: `include: [table1, table2]` stands alone in a file")
        names = [str(name) for name in content["include"]]
        beside = [path.parent / name if name.endswith(".yaml") else _path(name) for name in names]
        return [part for other in beside for part in _parts(other, (*within, path.resolve()))]
    if "parts" not in content:
        return [_part(path, content)]
    parts = content.pop("parts")
    if not isinstance(parts, list) or not parts or not all(isinstance(own, dict) for own in parts):
        raise UserError(f"{path}: `parts` is a list of mappings, for example `parts: [{{methods: [mocov2]}}]`")
    return [_part(path, _joined(path, content, own)) for own in parts]


def _joined(path: Path, shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a file, with what it does not say itself from the file."""
    both = [_settings(path, content) for content in (shared, own)]
    return {**shared, **own, "settings": OmegaConf.to_container(OmegaConf.merge(*both))}


def _settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings are a mapping, for example `settings: {{data.crop: 64}}`")
    return nested(settings)


def _part(path: Path, content: dict[str, Any]) -> Part:
    known = [f.name for f in fields(Part)]
    for key in content:
        if key in ("parts", "include"):
            raise UserError(f"{path}: `{key}` stands at the top of a file, not within a part")
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'", mend=nearest(key, [*known, "parts", "include"]))
    for key in ("methods", "seeds", "tasks", "table"):
        if key in content:
            content[key] = tuple(content[key]) if isinstance(content[key], list) else (content[key],)
    if not content.get("methods") or not content.get("seeds"):
        raise UserError(
            f"{path}: a sweep needs methods and seeds, for example `methods: [mocov2]` and `seeds: [0, 1, 2]`"
        )
    if not all(type(seed) is int for seed in content["seeds"]):
        raise UserError(f"{path}: seeds are whole numbers")
    if "tasks" in content:
        content["tasks"] = tuple(_task(path, task) for task in content["tasks"])
    return Part(**{**content, "settings": _settings(path, content)})


def _task(path: Path, task: Any) -> str:
    if isinstance(task, str):
        return task
    if isinstance(task, dict) and set(task) <= {"task", "data"} and isinstance(task.get("task"), str):
        return f"{task['task']}@{task['data']}" if task.get("data") else str(task["task"])
    raise UserError(f"{path}: {task} is no task; write linear, linear@caltech101 or {{task: linear, data: caltech101}}")


def narrowed(sweep: Sweep, methods: Sequence[str], seeds: Sequence[int], tasks: Sequence[str] = ()) -> Sweep:
    """The sweep with only these methods, seeds and tasks, where any are named.

    A sweep of one part takes methods, seeds and tasks that it does not have as well; of several, each keeps its own.

    Raises:
        UserError: no part of several has them.
    """
    if len(sweep.parts) == 1:
        (part,) = sweep.parts
        chosen = replace(
            part,
            methods=tuple(methods) or part.methods,
            seeds=tuple(seeds) or part.seeds,
            tasks=tuple(tasks) or part.tasks,
        )
        return Sweep(sweep.name, (chosen,))
    for what, wanted, has in (
        ("method", methods, [method for part in sweep.parts for method in part.methods]),
        ("task", tasks, [task for part in sweep.parts for task in part.tasks]),
    ):
        for name in wanted:
            if name not in has:
                raise UserError(f"sweep {sweep.name} has no {what} '{name}'", mend=nearest(name, dict.fromkeys(has)))
    parts = [
        replace(
            part,
            methods=tuple(name for name in part.methods if not methods or name in methods),
            seeds=tuple(seeds) or part.seeds,
            tasks=tuple(name for name in part.tasks if not tasks or name in tasks),
        )
        for part in sweep.parts
    ]
    return Sweep(sweep.name, tuple(part for part in parts if part.methods and part.tasks))


def expand(sweep: Sweep, out: Path, resolve: Resolve, overrides: Mapping[str, Any]) -> Graph:
    """Every job of a sweep, pretrainings before what builds on them.

    Args:
        sweep: what to run.
        out: folder of the sweep.
        resolve: turns a method and layers of settings into a Run.
        overrides: over the sweep's settings.

    Raises:
        UserError: an unknown method, task or setting.
    """
    jobs = []
    for part in sweep.parts:
        origin = f"sweep {sweep.name}"
        recipes = {method: resolve(method, part.settings, overrides, origin=origin) for method in part.methods}
        for seed in part.seeds:
            for recipe in recipes.values():
                run = replace(recipe, seed=seed)
                folder = RunFolder.of(run, out)
                tasks = [Evaluation.parse(task, run).name(run) for task in part.tasks]
                jobs += [Job(run, folder, task) for task in (PRETRAIN, *tasks)]
    return make_graph(out, jobs, sweep.tables)
