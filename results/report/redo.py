"""The commands that make a run and its results again, for readers of the page and as the script of an artifact."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from repro.data.catalogue import DATASETS
from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.runs.records import read
from repro.settings.run import Run
from results.collection.runs import RunRecord

UNKNOWN = "unknown"
"""What `repro.runs.provenance.source` records as the commit of code that is in no checkout."""


@dataclass(frozen=True)
class RedoStep:
    """One call of `salmask`.

    Attributes:
        words: Its arguments; `CONFIGURATION` stands for the run's `run.yaml`, `OUT` for the folder of what is made.
        datasets: The data sets whose roots it needs.
        notes: What to know before it is called.
    """

    words: tuple[str, ...]
    datasets: tuple[str, ...]
    notes: tuple[str, ...] = ()


CONFIGURATION, OUT = "run.yaml", "again"
"""The file with a step's settings, and the folder in which it makes sweeps."""

_BEGINNING = """#!/bin/sh
# Makes every run again, each with the code of its commit, in again/ of the folder where this is called:
#     sh redo.sh CHECKOUT{roots}
# CHECKOUT: a git checkout of salmask that has the commits; it is only read. $PYTHON: the interpreter, else python3.
set -eu
archive=$(cd "$(dirname "$0")" && pwd)
work=$(pwd)
checkout=${{1:?name a git checkout of salmask}}
shift
for pair in "$@"; do
  root=${{pair#*=}}
  case $root in /*) ;; *) root=$work/$root ;; esac
  eval "root_$(printf %s "${{pair%%=*}}" | tr -c 'A-Za-z0-9' _)=\\$root"
done
{checks}
code() {{
  folder=$work/again/code/$1
  [ ! -d "$folder" ] || return 0
  rm -rf "$folder.part"
  git clone --quiet --no-checkout "$checkout" "$folder.part"
  git -C "$folder.part" checkout --quiet "$1"
  mv "$folder.part" "$folder"
}}
salmask() {{
  (cd "$folder" && PYTHONPATH=$folder "${{PYTHON:-python3}}" -m repro.cli "$@")
}}
"""


def commands(run: RunRecord) -> list[str]:
    """Returns the commands that make a run and its results again, from any folder.

    Args:
        run: The run's folder.

    Returns:
        One command a line. CHECKOUT and DIR stand for the reader's own: a checkout of salmask, and the root of the data
        set. `run.yaml` is the run's own. Lines that begin with # say what else to know.
    """
    if run.run is None:
        return [_comment(f"{run.name}: its run.yaml is missing or of another version")]
    commit = _commit(run)
    notes = [*_code_notes(run), f"{CONFIGURATION}: every setting of the run, as its folder has it"]
    lines = [_comment(note) for note in notes]
    if commit == UNKNOWN:
        lines.append("cd CHECKOUT")
    else:
        folder = f"salmask-{commit[:7]}"
        lines.append(f"git clone CHECKOUT {folder} && cd {folder} && git checkout --quiet {commit}")
    for step in steps(run):
        roots = [f"--root {_root(step, dataset)}DIR" for dataset in step.datasets]
        call = " ".join([shlex.join(["python", "-m", "repro.cli", *step.words]), *roots]) if step.words else ""
        lines += [*map(_comment, step.notes), *([f"PYTHONPATH=. {call}"] if call else [])]
    return lines


def script(runs: Sequence[RunRecord]) -> str:
    """Writes the script that makes all runs of an artifact again.

    Args:
        runs: The runs, whose `run.yaml` lie in `runs/NAME/` beside the script.

    Returns:
        A script of POSIX's shell. It asks for a checkout and the roots of the data sets, and refuses to begin if one is
        missing, or the folder of weights from elsewhere that it is to evaluate.
    """
    datasets = sorted({dataset for run in runs if run.run for step in steps(run) for dataset in step.datasets})
    checks = "".join(f': "${{{_variable(dataset)}:?name its root, {dataset}=DIR}}"\n' for dataset in datasets)
    checks += "".join(map(_check_of_imported, runs))
    beginning = _BEGINNING.format(roots="".join(f" {each}=DIR" for each in datasets), checks=checks)
    return beginning + "".join(line + "\n" for run in runs for line in _of_script(run))


def _check_of_imported(run: RunRecord) -> str:
    """Returns the line that ends the script where a run of imported weights is not there; else an empty text."""
    if run.run is None or not run.run.imported.weights or not any(step.words for step in steps(run)):
        return ""
    folder = _folder(run, run.run)
    told = f"{folder}: put the run's folder there, with its backbone.pth; weights from elsewhere are not made again"
    return f"[ -d {_placed(folder)} ] || {{ printf '%s\\n' {shlex.quote(told)} >&2; exit 2; }}\n"


def _of_script(run: RunRecord) -> Iterator[str]:
    yield f"\n{_comment(run.name)}"
    if run.run is None:
        yield _comment("its run.yaml is missing or of another version")
        return
    yield from map(_comment, _code_notes(run))
    commit = _commit(run)
    yield f"code {'HEAD' if commit == UNKNOWN else commit}"
    places = {CONFIGURATION: f'"$archive"/runs/{shlex.quote(run.name)}/{CONFIGURATION}'}
    for step in steps(run):
        yield from map(_comment, step.notes)
        words = [places.get(word) or _placed(word) for word in step.words]
        roots = [f'--root {_root(step, dataset)}"${_variable(dataset)}"' for dataset in step.datasets]
        if words:
            yield " ".join(["salmask", *words, *roots])


def _placed(word: str) -> str:
    """Returns a word quoted for the shell; paths below `OUT` are placed in the folder where the script is called."""
    return f'"$work"/{shlex.quote(word)}' if PurePosixPath(word).parts[:1] == (OUT,) else shlex.quote(word)


def _root(step: RedoStep, dataset: str) -> str:
    """Returns what precedes a root: the name of its data set, because an evaluation may need several."""
    return "" if step.words[0] == "pretrain" else f"{dataset}="


def _variable(dataset: str) -> str:
    return "root_" + re.sub(r"[^A-Za-z0-9]", "_", dataset)


def _comment(text: str) -> str:
    """Returns a text as a comment of the shell, in one line: a second line would be run."""
    return f"# {' '.join(text.split())}"


def _commit(run: RunRecord) -> str:
    commit = str(run.last_attempt.get("commit", UNKNOWN))
    return commit if re.fullmatch(r"[0-9a-f]{7,40}", commit) else UNKNOWN  # it becomes part of a command


def _code_notes(run: RunRecord) -> list[str]:
    commit = _commit(run)
    notes = [f"code: commit {commit}"]
    if commit == UNKNOWN:
        notes = ["code: no commit was recorded, so that of the checkout is used"]
    if run.last_attempt.get("dirty"):
        notes.append("the code had changes that no commit holds")
    return notes


def steps(run: RunRecord) -> list[RedoStep]:
    """Returns the calls that make a run and its results again.

    Args:
        run: A folder whose `run.yaml` can be read.
    """
    assert run.run is not None
    sweep = f"{OUT}/{run.sweep}"
    imported = run.run.imported
    if imported.weights:
        pretrain = RedoStep(
            (), (), (f"weights from elsewhere, {imported.origin}, SHA-256 {imported.weights}, in {sweep}",)
        )
    else:
        words = ("pretrain", run.run.method, "--config", CONFIGURATION, "--out", sweep)
        pretrain = RedoStep(words, _with_root([run.run.data.dataset]), _own_files(run.run))
    return [pretrain, *_evaluations(run, run.run, _folder(run, run.run))]


def _folder(record: RunRecord, run: Run) -> str:
    """Returns the folder in which a run is made again."""
    return f"{OUT}/{record.sweep}/{run.folder}"


def _own_files(run: Run) -> tuple[str, ...]:
    """Returns a note for each file or folder of a person's own that a run reads, since it may be elsewhere by now."""
    localizer = run.localizer
    read = {
        "localizer.weights": (localizer.weights, localizer.sha256),
        "localizer.files": (localizer.files, localizer.files_sha256),
        "data.masks": (run.data.masks, run.data.masks_sha256),
    }
    return tuple(
        f"{key}={path} has the SHA-256 {digest}; where it is elsewhere, add {key}=PATH"
        for key, (path, digest) in read.items()
        if digest
    )


def _with_root(datasets: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in datasets if name in DATASETS and DATASETS[name].needs_root))


def _evaluations(record: RunRecord, run: Run, folder: str) -> list[RedoStep]:
    """Returns the call that evaluates the new folder in every way in which the old one was evaluated."""
    if not record.folder.results.exists():
        return []
    rows = [row for row in read(record.folder.results)[0] if row.run_id == run.id and row.task in PROTOCOLS]
    if not rows:
        return []
    evaluations = dict.fromkeys(Evaluation(row.task, row.dataset) for row in rows)
    # The settings of an evaluation are the run's, unless its command changed them; the command below cannot do so.
    own_protocols = {protocol for evaluation in evaluations for protocol in evaluation.protocols(run)}
    # If detection's batch depends on the number of devices, only the rows name it.
    own_protocols |= {row.protocol for evaluation in evaluations for row in evaluation.recorded(run, rows)}
    foreign = sorted({row.protocol for row in rows} - own_protocols)
    notes = (f"measured with other settings of the evaluation: {', '.join(foreign)}",) if foreign else ()
    names = ",".join(evaluation.name(run) for evaluation in evaluations)
    datasets = _with_root([evaluation.dataset for evaluation in evaluations])
    return [RedoStep(("eval", folder, "--task", names), datasets, notes)]
