"""The commands that make a run again."""

import shlex
from pathlib import Path

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
    lines.append(shlex.join(["salmask", "pretrain", run.run.method, "--config", str(config), "--out", sweep]))
    if run.folder.results.exists():
        lines.append(shlex.join(["salmask", "probe", f"{sweep}/{run.run.folder}"]))
    return lines
