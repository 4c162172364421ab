"""The commands that make a run and its results again."""

import shlex
from pathlib import Path

from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.runs.records import read
from repro.runs.run import Run
from results.runs import RunRecord


def commands(run: RunRecord, configuration: Path | None = None, out: str = "runs") -> list[str]:
    """Write down what to type to make a run and its results again.

    Args:
        run: The run's folder.
        configuration: Where its `run.yaml` lies for the reader; in the folder itself by default.
        out: Folder of the sweeps that the run is made again in.

    Returns:
        One command a line; lines that begin with # say at which commit, and what else to know.
    """
    if run.run is None:
        return [f"# {run.name}: its run.yaml is missing or of another version"]
    attempt = run.last_attempt
    dirt = ", with changes that no commit holds" if attempt.get("dirty") else ""
    lines = [f"# code: commit {attempt.get('commit', 'unknown')}{dirt}"]
    sweep = f"{out}/{run.sweep}"
    config = configuration or run.folder.run_yaml
    if run.run.imported.weights:
        lines.append(f"# weights from elsewhere, {run.run.imported.origin}, SHA-256 {run.run.imported.weights}")
    else:
        lines.append(shlex.join(["salmask", "pretrain", run.run.method, "--config", str(config), "--out", sweep]))
    return lines + _evaluations(run, run.run, f"{sweep}/{run.run.folder}")


def _evaluations(record: RunRecord, run: Run, folder: str) -> list[str]:
    """Returns the command that evaluates the new folder in every way in which the old one was evaluated."""
    if not record.folder.results.exists():
        return []
    rows = [row for row in read(record.folder.results)[0] if row.run_id == run.id and row.task in PROTOCOLS]
    if not rows:
        return []
    evaluations = dict.fromkeys(Evaluation(row.task, row.dataset) for row in rows)
    # The settings of an evaluation are the run's, unless its command changed them; the command below does not.
    own_protocols = {protocol for evaluation in evaluations for protocol in evaluation.protocols(run)}
    # Detection that leaves its batch to the devices names it in the rows alone.
    own_protocols |= {row.protocol for evaluation in evaluations for row in evaluation.recorded(run, rows)}
    foreign = sorted({row.protocol for row in rows} - own_protocols)
    note = [f"# measured with other settings of the evaluation: {', '.join(foreign)}"] if foreign else []
    names = ",".join(evaluation.name(run) for evaluation in evaluations)
    return [*note, shlex.join(["salmask", "eval", folder, "--task", names])]
