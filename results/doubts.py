"""What a reader should know first: everything about the runs that speaks against trusting a number."""

from collections.abc import Iterator, Sequence

import pandas as pd

from results.absence import UNFINISHED
from results.collect import KEYS
from results.runs import RunRecord

SHOWN = 4


def doubts(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> list[str]:
    """List the doubts, the gravest first, one line each.

    Args:
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
    """
    return [*_of_results(frame), *_of_runs(runs), *(frame.attrs.get("warnings", []) if frame is not None else [])]


def _of_results(frame: pd.DataFrame | None) -> Iterator[str]:
    if frame is None:
        yield "no run has been evaluated: every cell of ours is empty"
        return
    for scale in sorted({str(scale) for scale in frame["scale"] if scale}):
        yield f"TINY MODE – {scale}: not comparable with the published numbers"
    seeds = frame.groupby([*KEYS, "task", "metric", "method"], observed=True)["seed"].nunique()
    if int(seeds.min()) < 3:
        single = seeds[seeds < 3].reset_index()["method"].astype(str)
        yield f"fewer than 3 seeds behind {len(single)} cell(s): {_some(sorted(set(single)))}"
    if frame["dirty"].any():
        yield f"measured with uncommitted changes: {_some(sorted(set(frame[frame['dirty']]['run_id'])))}"
    commits = sorted({str(commit)[:7] for commit in frame["commit"]})
    if "unknown" in commits:
        yield "some results do not know the commit of their code"
    if len(commits) > 1:
        yield f"results of {len(commits)} commits stand side by side: {_some(commits)}"


def _of_runs(runs: Sequence[RunRecord]) -> Iterator[str]:
    for state, said in UNFINISHED.items():
        names = [run.name for run in runs if run.state == state]
        if names:
            yield f"{len(names)} run(s) {said}: {_some(names)}"
    unreadable = [run.name for run in runs if run.run is None]
    if unreadable:
        yield f"{len(unreadable)} run(s) whose run.yaml is missing or of another version: {_some(unreadable)}"
    for what, values in (("data", _fingerprints(runs)), ("torch", _versions(runs, "torch"))):
        for place, found in values.items():
            if len(found) > 1:
                yield f"{place}: runs of {len(found)} different {what} side by side: {_some(sorted(found))}"
    devices = sorted({str(run.attempts[-1].get("device")) for run in runs if run.attempts})
    if len(devices) > 1:
        yield f"runs on {len(devices)} kinds of device: {_some(devices)}"


def _fingerprints(runs: Sequence[RunRecord]) -> dict[str, set[str]]:
    """Fingerprints of the training images by data set and its settings."""
    found: dict[str, set[str]] = {}
    for run in runs:
        if run.run and run.attempts and run.attempts[-1].get("data"):
            place = f"{run.run.data.dataset} {run.run.data.scenes}" if "scenes" in run.run.data.dataset else ""
            name = run.run.data.dataset
            found.setdefault(place or name, set()).add(str(run.attempts[-1]["data"].get("train")))
    return found


def _versions(runs: Sequence[RunRecord], package: str) -> dict[str, set[str]]:
    found = {str(run.attempts[-1].get("packages", {}).get(package)) for run in runs if run.attempts}
    return {package: found}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
