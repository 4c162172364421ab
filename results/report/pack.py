"""The artifact, one zip with all that a reader needs, and the check that nothing in it changed."""

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO

import pandas as pd

from repro.command_line.text_tables import escaped
from repro.errors import UserError, first_few, one_line
from repro.filesystem.clutter import is_clutter
from repro.filesystem.files import write_atomically
from repro.filesystem.presence import exists, is_file
from repro.quantities import counted, size_text
from repro.runs.folder import TASK_FOLDERS
from repro.runs.predictions import PREDICTIONS
from results.claims.families import families_as_frame, judge_families
from results.claims.parts import parts, parts_as_frame
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import judge
from results.collection.collect import export_bytes
from results.collection.gathering import results_of
from results.collection.runs import RESULTS, RunRecord
from results.formats.table_files import FORMATS
from results.paper.published import PAPER, TABLES
from results.plots.figures import PLOTS, SUFFIXES, draw
from results.plots.material import Material, NothingToDrawError
from results.report.page import build, refuse_namesakes, whole_table
from results.report.redo import script
from results.tables.selection import judged_task

MANIFEST = "SHA256SUMS"
"""Name of the file with the checksums of all others, as `sha256sum -c` reads it."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest date that a zip can hold: the same content gives the same file."""

LARGEST_MANIFEST = 64 * 2**20
"""Bytes of a manifest: a million files."""
LARGEST_RATIO = 1000
"""How many times larger an artifact may be when it is unpacked; text is ten times larger."""
TORN = (zipfile.BadZipFile, zlib.error, EOFError)
"""Errors that a damaged zip file causes."""

_GIVE_ARTIFACT = "give an artifact that `salmask pack` wrote"
_README = """# {title}

Made by salmask {version} from {count}. Start with `report.html`, which needs no network.

| what | where |
| --- | --- |
| everything on one page, warnings first | `report.html` |
| the paper's tables with the measured numbers beside, as Markdown, LaTeX, CSV and HTML | `tables/` |
| plots, as SVG and PNG | `plots/` |
| every result as one long table; the paper's claims and sentences with their tests; what each part adds | `data/` |
| of each run: settings, provenance, state, metrics, results, predictions, logs, galleries{checkpoints} | `runs/` |
| installed packages of the machine that packed; the same as a bill of materials | `environment.txt`, `sbom.json` |
| what makes each run again, with the code of its commit | `redo.sh` |
| checksums of all files | `SHA256SUMS` |

Verify with `salmask pack --check FILE`, or unpack and run `sha256sum -c SHA256SUMS`.
"""


def pack(
    path: Path,
    runs: Sequence[RunRecord],
    frame: pd.DataFrame | None,
    *,
    title: str,
    task: str = "",
    metric: str = "",
    checkpoints: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Writes the artifact, whole or not at all.

    Args:
        path: A `.zip`.
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        title: Heading of the report.
        task: The evaluation that tables, claims and plots are of, as for `results.report.page.build`.
        metric: The measure that they are of, likewise.
        checkpoints: Also put each run's `backbone.pth` in.
        tell: Called with what is packed next, in a few words.

    Returns:
        The number of files in it, without the manifest.

    Raises:
        UserError: The path has another suffix or cannot be written, there is no run, runs exclude each other or have
            the same name, a run's folder is gone or its results changed, or there is no such task or measure.
    """
    if path.suffix != ".zip":
        raise UserError(f"cannot pack to {path}", mend="give a name that ends in .zip")
    if not runs:
        raise UserError("no run folder to pack", mend="give a folder with runs")
    refuse_namesakes(runs)
    task = judged_task(frame, task, metric)
    names: list[str] = []

    def fill(file: IO[bytes]) -> None:
        # `write_atomically` calls this once, with the file that takes the place of the old one when all is written.
        sums: dict[str, str] = {}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _contents(runs, frame, title, (task, metric), tell, checkpoints=checkpoints):
                sums[name] = hashlib.sha256(content).hexdigest()
                _add(archive, name, content)
            _add(archive, MANIFEST, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())
        names.extend(sums)

    write_atomically(path, fill)
    return len(names)


def check(path: Path) -> int:
    """Verifies an artifact: every file is there and unchanged, and there is no other file.

    Args:
        path: What `pack` wrote.

    Returns:
        The number of files that were verified.

    Raises:
        UserError: It is no artifact, or a file is missing, changed or unexpected; names the first ones.
    """
    if exists(path) and not is_file(path):  # a pipe, say, which the reader would wait for
        raise UserError(f"{path} is not a file", mend=_GIVE_ARTIFACT)
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, archive)
            names = archive.namelist()
            if MANIFEST not in names:
                raise UserError(f"{path} is not an artifact of salmask: it holds no {MANIFEST}", mend=_GIVE_ARTIFACT)
            sums = _read_manifest(path, archive.read(MANIFEST))
            # A zip may hold a name twice, and programs differ in which of the two they unpack.
            repeated = sorted(name for name, number in Counter(names).items() if number > 1)
            troubles = [f"{name} is there twice" for name in repeated]
            troubles += [f"{name} is missing" for name in sums if name not in names]
            troubles += [f"{name} is not in {MANIFEST}" for name in names if name not in sums and name != MANIFEST]
            troubles += [
                f"{name} was changed"
                for name, digest in sums.items()
                if name in names and _digest(archive, name) != digest
            ]
    except FileNotFoundError:
        raise UserError(f"no file {path}", mend=_GIVE_ARTIFACT) from None
    except (*TORN, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a whole zip file: {one_line(error)}", mend="copy it again") from error
    if troubles:
        what = f"{path} is not as it was packed: {first_few(troubles, 3, '; ')}"
        raise UserError(what, mend="copy it again, or pack it again")
    return len(sums)


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses an archive that unpacks to more than any artifact, before anything of it is unpacked."""
    manifest = sum(entry.file_size for entry in archive.infolist() if entry.filename == MANIFEST)
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if manifest > LARGEST_MANIFEST or unpacked > LARGEST_RATIO * path.stat().st_size:
        raise UserError(
            f"{path} is not an artifact of salmask: {size_text(path.stat().st_size)} unpack to {size_text(unpacked)}",
            mend=_GIVE_ARTIFACT,
        )


def _contents(
    runs: Sequence[RunRecord],
    frame: pd.DataFrame | None,
    title: str,
    judged: tuple[str, str],
    tell: Callable[[str], None],
    *,
    checkpoints: bool,
) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every file but the manifest, one at a time: never more than one lies in memory."""
    task, metric = judged  # by which evaluation and measure
    backbone = ", backbone" if checkpoints else ""
    made_by = {"version": metadata.version("salmask"), "count": counted(len(runs), "run")}
    readme = _README.format(title=escaped(title), **made_by, checkpoints=backbone)
    yield "README.md", readme.encode()
    for run in runs:
        _require_there(run)
        if is_file(run.folder.results):
            yield f"runs/{run.name}/{RESULTS}", run.folder.results.read_bytes()
    _refuse_changed_results(runs, frame)
    runs = sorted(runs, key=lambda run: run.name)
    tell("the page")
    yield "report.html", build(runs, frame, title=title, task=task, metric=metric).encode()
    tell("tables and plots")
    for name in TABLES:
        table = whole_table(name, runs, frame, task, metric)
        for suffix, make in FORMATS.items():
            yield f"tables/{name}{suffix}", make(table).encode()
    yield from _plots(Material(runs, frame, task=task, metric=metric))
    tell("data and claims")
    if frame is not None:
        places = {run.path_of_rows: f"runs/{run.name}/{RESULTS}" for run in runs}
        packed = frame.assign(path=frame["path"].map(places).astype("category"))  # paths within the archive
        yield "data/results.csv", export_bytes(packed, ".csv")
        yield "data/results.parquet", export_bytes(packed, ".parquet")
    verdicts = judge(frame, task=task, metric=metric)
    judged_frames = {
        "claims": as_frame(verdicts),
        "sentences": families_as_frame(judge_families(verdicts)),
        "parts": parts_as_frame(parts(frame, task=task, metric=metric)),
    }
    for name, data in judged_frames.items():
        yield f"data/{name}.json", data.to_json(orient="records", indent=1).encode()
    for file in sorted(filter(Path.is_file, PAPER.iterdir())):  # beside Python's own folder of bytecode
        yield f"data/paper/{file.name}", file.read_bytes()
    yield "environment.txt", _environment().encode()
    yield "sbom.json", _bill_of_materials().encode()
    for number, run in enumerate(runs, start=1):
        tell(f"run {number} of {len(runs)}")
        for path in _files_of(run, checkpoints=checkpoints):
            yield str(Path("runs", run.name, path.relative_to(run.path))), path.read_bytes()
    yield "redo.sh", script(runs).encode()


def _files_of(run: RunRecord, *, checkpoints: bool) -> list[Path]:
    """Returns the files that the page is made of, but for its results, and predictions; the backbone only if asked for.

    Raises:
        UserError: The run's folder is gone.
    """
    folder = run.folder
    _require_there(run)
    statuses = sorted(run.path.glob("status*.json"))  # each task has one of its own
    paths = [
        folder.run_yaml,
        folder.provenance,
        *statuses,
        folder.metrics,
        folder.foregrounds,
        folder.health,
    ]
    curves = [
        path for name in dict.fromkeys(TASK_FOLDERS.values()) for path in run.path.glob(f"{name}/*/metrics.jsonl")
    ]
    predictions = [path for path in (run.path / PREDICTIONS).glob("*") if not is_clutter(path.name)]
    paths += [*sorted(curves), *sorted(predictions), *run.logs, *run.galleries]
    return [path for path in [*paths, *([folder.backbone] if checkpoints else [])] if path.is_file()]


def _require_there(run: RunRecord) -> None:
    """Raises a UserError if a run's folder is gone: the archive would lack the files behind its tables."""
    if not run.path.is_dir():
        raise UserError(f"{run.path} has disappeared since it was read", mend="put it back, or repeat without it")


def _refuse_changed_results(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> None:
    """Raises a UserError if results were recorded after `frame` was read: the tables would lack rows of the archive."""
    now, _ = results_of(runs)
    if not (now is frame if now is None or frame is None else now.equals(frame)):
        newest = max((run.folder.results for run in runs), key=lambda path: path.stat().st_mtime if exists(path) else 0)
        raise UserError(f"{newest} has changed since it was read", mend="repeat the command")


def _plots(material: Material) -> Iterator[tuple[str, bytes]]:
    for name in PLOTS:
        for suffix in SUFFIXES:
            try:
                yield f"plots/{name}{suffix}", draw(name, material, suffix)
            except NothingToDrawError:
                break  # the report says what is missing for it


def _environment() -> str:
    """Returns the installed packages as a requirements file, without nameless remains of broken installations."""
    packages = {f"{name}=={d.version}" for d in metadata.distributions() if (name := _about(d, "Name"))}
    return "\n".join(sorted(packages, key=str.lower)) + "\n"


def _about(distribution: metadata.Distribution, field: str) -> str:
    """Returns what an installed package says of itself; empty where it says nothing."""
    return next(iter(distribution.metadata.get_all(field) or ()), "")


def _bill_of_materials() -> str:
    """Returns the installed packages with their licences as a software bill of materials, CycloneDX 1.5 in JSON."""
    components = {}
    for distribution in metadata.distributions():
        name = _about(distribution, "Name").lower().replace("_", "-")
        if not name:
            continue
        # The first line only: some packages put the whole text of their licence there.
        licence = _about(distribution, "License-Expression") or _about(distribution, "License") or "unknown"
        components[name] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{distribution.version}",
            "name": name,
            "version": distribution.version,
            "purl": f"pkg:pypi/{name}@{distribution.version}",
            "licenses": [{"license": {"name": licence.partition("\n")[0]}}],
        }
    salmask = components.pop("salmask", None)
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**salmask, "type": "application"}} if salmask else {},
        "components": [components[name] for name in sorted(components)],
    }
    return json.dumps(content, indent=1) + "\n"


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a file with a fixed time and fixed permissions, so that the same content gives the same archive."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16  # the upper half is Unix's mode
    archive.writestr(entry, content)


def _digest(archive: zipfile.ZipFile, name: str) -> str:
    """Returns the SHA-256 of a file's content; empty if it cannot be unpacked."""
    try:
        with archive.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has `readinto`
    except (*TORN, NotImplementedError, RuntimeError):  # the last two: unknown compression, or encrypted
        return ""


def _read_manifest(path: Path, content: bytes) -> dict[str, str]:
    """Returns the digest of each file by name; `path` is for messages."""
    lines = content.decode(errors="replace").splitlines()
    pairs = [line.split("  ", 1) for line in lines]
    if not all(len(pair) == 2 and len(pair[0]) == 64 for pair in pairs):
        raise UserError(f"{path} is not an artifact of salmask: its {MANIFEST} cannot be read", mend=_GIVE_ARTIFACT)
    return {name: digest for digest, name in pairs}
