"""What a reviewer asks: NeurIPS' paper checklist and ACM's artifact badges, filled in from the runs.

The questions follow the NeurIPS paper checklist (2024) and ACM's Artifact Review and Badging, version 1.1. What only an
author can answer says so; everything else is read from the run folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from repro.quantities import counted, duration_text
from results.claims.verdicts import CONTRADICTED, SUPPORTED, Verdict, count
from results.collection.collect import ENOUGH_SEEDS, seeds_by_cell, seeds_text
from results.collection.runs import RunRecord
from results.tables.references import without_untrained

AUTHOR = "author"
"""The answer to a question that no run folder can answer."""


@dataclass(frozen=True)
class Item:
    """One question and its answer.

    Attributes:
        source: Whose question it is, with its number or badge.
        question: The question in short, as a statement.
        answer: `yes`, `partly`, `no`, or `author` if only the author can tell.
        evidence: What in the runs it rests on, or what is missing.
    """

    source: str
    question: str
    answer: str
    evidence: str


def checklist(runs: Sequence[RunRecord], frame: pd.DataFrame | None, verdicts: Sequence[Verdict]) -> list[Item]:
    """Fills the checklist in.

    Args:
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        verdicts: What `results.claims.verdicts.judge` returns.

    Returns:
        One item for each question, NeurIPS' before ACM's.
    """
    return [
        _claims(verdicts),
        Item("NeurIPS 2", "Limitations are discussed", AUTHOR, "the warnings at the top of this page are a start"),
        _described(runs),
        _open_code(runs),
        _settings(runs),
        _spread(frame),
        _compute(runs),
        Item(
            "NeurIPS 12",
            "Licences of data and models are respected",
            AUTHOR,
            "name the licences of the data sets and of the localizer's weights that these runs used",
        ),
        _data(runs),
        Item(
            "ACM Available",
            "The artifact is in a public archive with an identifier",
            AUTHOR,
            "deposit what salmask pack makes, and cite its identifier",
        ),
        _complete(runs),
        _exercisable(runs),
        _reproduced(frame),
    ]


def _claims(verdicts: Sequence[Verdict]) -> Item:
    counts = count(verdicts)
    supported, contradicted = counts[SUPPORTED], counts[CONTRADICTED]
    answer = "no" if contradicted or not supported else "yes" if supported == len(verdicts) else "partly"
    evidence = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return Item("NeurIPS 1", "The claims are what the experiments show", answer, evidence)


def _described(runs: Sequence[RunRecord]) -> Item:
    reproducible = [run for run in runs if run.run and run.attempts and _clean(run)]
    question = "Results can be reproduced from what is disclosed"
    return _share("NeurIPS 4", question, reproducible, runs, "with run.yaml and a clean commit")


def _open_code(runs: Sequence[RunRecord]) -> Item:
    commits = sorted({attempt.get("commit", "unknown")[:7] for run in runs for attempt in run.attempts})
    return Item("NeurIPS 5", "Code and data are open", AUTHOR, f"commits used: {', '.join(commits) or 'none recorded'}")


def _settings(runs: Sequence[RunRecord]) -> Item:
    readable = [run for run in runs if run.run]
    return _share("NeurIPS 6", "All settings are given", readable, runs, "with every setting in run.yaml, listed below")


def _spread(frame: pd.DataFrame | None) -> Item:
    question = "Error bars and significance are reported"
    if frame is None:
        return Item("NeurIPS 7", question, "no", "no result yet")
    by_cell = seeds_by_cell(without_untrained(frame))
    answer = "yes" if by_cell.min() >= ENOUGH_SEEDS else "partly" if by_cell.max() > 1 else "no"
    evidence = f"{seeds_text(by_cell)} a cell; sample standard deviations, paired 95 % intervals, p after Holm"
    return Item("NeurIPS 7", question, answer, evidence)


def _compute(runs: Sequence[RunRecord]) -> Item:
    timed = [run for run in runs if run.attempts and run.training_seconds]
    spent = duration_text(sum(run.training_seconds or 0 for run in timed))
    devices = sorted({str(run.last_attempt.get("device", "?")) for run in timed})
    item = _share("NeurIPS 8", "Compute is given for each experiment", timed, runs, "with device and training time")
    return replace(item, evidence=f"{item.evidence}; {spent} in all on {', '.join(devices) or '–'}")


def _data(runs: Sequence[RunRecord]) -> Item:
    fingerprinted = [run for run in runs if run.last_attempt.get("data")]
    return _share(
        "NeurIPS 13", "Data are identified exactly", fingerprinted, runs, "with a fingerprint of the images they saw"
    )


def _complete(runs: Sequence[RunRecord]) -> Item:
    finished = [run for run in runs if run.state == "done"]
    return _share("ACM Functional", "Complete: every run that was begun is finished", finished, runs, "finished")


def _exercisable(runs: Sequence[RunRecord]) -> Item:
    readable = [run for run in runs if run.run]
    question = "Exercisable: a command makes each run again"
    return _share("ACM Functional", question, readable, runs, "with commands below")


def _reproduced(frame: pd.DataFrame | None) -> Item:
    question = "Results reproduced at the paper's scale, with its settings"
    full_runs = 0
    if frame is not None:
        as_the_row = frame["departures"].map(lambda comparison: comparison.is_the_row).astype(bool)
        full_runs = int(frame[as_the_row & (frame["scale"] == "")]["run_id"].nunique())
    if not full_runs:
        evidence = "no run at the paper's scale with its settings; tiny and altered runs show that the code works"
        return Item("ACM Reproduced", question, "no", evidence)
    # Never more than "partly": whether a difference still counts as reproduced is for a person to say.
    evidence = f"{counted(full_runs, 'run')} at the paper's scale with its settings; the differences are in the tables"
    return Item("ACM Reproduced", question, "partly", evidence)


def _clean(run: RunRecord) -> bool:
    """Whether every attempt ran a known commit without changes, as one dirty attempt taints the whole training."""
    return all(attempt.get("commit", "unknown") != "unknown" and not attempt.get("dirty") for attempt in run.attempts)


def _share(source: str, question: str, passing: Sequence[RunRecord], runs: Sequence[RunRecord], what: str) -> Item:
    """Answers by the number of runs that pass, and names the first three that do not."""
    answer = "no" if not passing else "yes" if len(passing) == len(runs) else "partly"
    failing = [run.name for run in runs if run not in passing]
    exceptions = f"; not: {', '.join(failing[:3])}" + (" …" if len(failing) > 3 else "") if failing else ""
    return Item(source, question, answer, f"{len(passing)} of {len(runs)} runs {what}{exceptions}")
