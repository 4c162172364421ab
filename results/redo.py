"""The commands that make a run again."""

import shlex
from pathlib import Path

from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.runs.records import read
from repro.runs.run import Run
from results.runs import RunRecord


def commands(run: RunRecord, configuration: Path | None = None, out: str = "runs") -> list[str]:
    """What to type to make a run and its results again.

    Args:
        run: Its folder.
        configuration: Where its `run.yaml` lies for the reader; in the folder itself by default.
        out: Folder of the sweeps that it is made in.

    Returns:
        One command a line; comments say at which commit, and what else to know.
    """
    if run.run is None:
        return [f"# {run.name}: its run.yaml is missing or of another version"]
    commit = run.attempts[-1].get("commit", "unknown") if run.attempts else "unknown"
    dirty = bool(run.attempts and run.attempts[-1].get("dirty"))
    lines = [f"# code: commit {commit}" + (", with changes that no commit holds" if dirty else "")]
    sweep = f"{out}/{run.sweep}"
    config = configuration or run.folder.run_yaml
    if run.run.imported.weights:
        lines.append(f"# weights from elsewhere, {run.run.imported.origin}, SHA-256 {run.run.imported.weights}")
    else:
        lines.append(shlex.join(["salmask", "pretrain", run.run.method, "--config", str(config), "--out", sweep]))
    return lines + _evaluations(run, run.run, f"{sweep}/{run.run.folder}")


def _evaluations(record: RunRecord, run: Run, place: str) -> list[str]:
    if not record.folder.results.exists():
        return []
    rows = [row for row in read(record.folder.results)[0] if row.run_id == run.id and row.task in PROTOCOLS]
    if not rows:
        return []
    done = dict.fromkeys(Evaluation(row.task, row.dataset) for row in rows)
    usual = {protocol for evaluation in done for protocol in evaluation.protocols(run)}
    usual |= {row.protocol for evaluation in done for row in evaluation.recorded(run, rows)}  # with the batch named
    other = sorted({row.protocol for row in rows} - usual)
    note = [f"# measured with other settings of the evaluation: {', '.join(other)}"] if other else []
    names = ",".join(evaluation.name(run) for evaluation in done)
    return [*note, shlex.join(["salmask", "eval", place, "--task", names])]
