"""A sweep: methods × seeds of one setting, as a file, expanded to the jobs that are still missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from repro.errors import UserError, nearest
from repro.folder import RunFolder
from repro.records import read
from repro.run import Run
from repro.settings import read_yaml

SWEEPS = Path(__file__).parent / "sweeps"
Resolve = Callable[..., Run]
"""`resolve(method, *layers) -> Run`; the caller knows the methods, a launcher does not."""


@dataclass(frozen=True)
class Sweep:
    """Which runs there are and what becomes of them."""

    name: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...] = ("linear",)
    table: str = "table1"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One task of one run, for a process of its own."""

    run: Run
    folder: RunFolder
    task: str
    """`pretrain` or a downstream task."""

    @property
    def name(self) -> str:
        """As progress and messages call it."""
        return f"{self.task} {self.run.method} s{self.run.seed}"

    @property
    def ready(self) -> bool:
        """Whether what it builds on is there."""
        return self.task == "pretrain" or self.folder.pretrained

    @property
    def done(self) -> bool:
        """Whether its result is there, whoever made it."""
        if self.task == "pretrain":
            return self.folder.pretrained
        if not self.folder.results.exists():
            return False
        rows, _ = read(self.folder.results)
        return any(
            (row.run_id, row.task, row.protocol) == (self.run.id, self.task, self.run.probe.protocol) for row in rows
        )


def load(name: str) -> Sweep:
    """A sweep by name, or from a YAML file.

    Raises:
        UserError: there is none of that name, or the file is broken.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(file.stem for file in SWEEPS.glob("*.yaml"))
        if name not in known:
            raise UserError(f"unknown sweep '{name}'{nearest(name, known)}, or the path of a .yaml file")
        path = SWEEPS / f"{name}.yaml"
    content = read_yaml(path)
    known = [f.name for f in fields(Sweep) if f.name != "name"]
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'{nearest(key, known)}")
    for key in ("methods", "seeds", "tasks"):
        if key in content:
            content[key] = tuple(content[key]) if isinstance(content[key], list) else (content[key],)
    if not content.get("methods") or not content.get("seeds"):
        raise UserError(
            f"{path}: a sweep needs methods and seeds, for example `methods: [mocov2]` and `seeds: [0, 1, 2]`"
        )
    if not all(isinstance(seed, int) for seed in content["seeds"]):
        raise UserError(f"{path}: seeds are whole numbers")
    if not isinstance(content.get("settings", {}), dict):
        raise UserError(f"{path}: settings are a mapping, for example `settings: {{data.crop: 64}}`")
    return Sweep(name=path.stem, **content)


def narrowed(sweep: Sweep, methods: Sequence[str], seeds: Sequence[int]) -> Sweep:
    """The sweep with only these methods and seeds, where any are named."""
    return replace(sweep, methods=tuple(methods) or sweep.methods, seeds=tuple(seeds) or sweep.seeds)


def expand(sweep: Sweep, out: Path, resolve: Resolve, overrides: Mapping[str, Any]) -> list[Job]:
    """Every job of a sweep, pretrainings before what builds on them.

    Args:
        sweep: what to run.
        out: folder of the sweep.
        resolve: turns a method and layers of settings into a Run.
        overrides: over the sweep's settings.

    Raises:
        UserError: an unknown method or setting.
    """
    jobs = []
    for seed in sweep.seeds:
        for method in sweep.methods:
            run = resolve(method, sweep.settings, overrides, {"seed": seed}, origin=f"sweep {sweep.name}")
            folder = RunFolder.of(run, out)
            jobs += [Job(run, folder, task) for task in ("pretrain", *sweep.tasks)]
    return jobs
