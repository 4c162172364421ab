"""What a reviewer asks: NeurIPS' paper checklist and ACM's artifact badges, filled in from the runs.

The questions follow the NeurIPS paper checklist (2024) and ACM's Artifact Review and Badging, version 1.1. What only an
author can answer says so; everything else is read from the run folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results.claims import CONTRADICTED, SUPPORTED, Verdict, count
from results.collect import KEYS
from results.runs import RunRecord

AUTHOR = "author"


@dataclass(frozen=True)
class Item:
    """One question and its answer.

    Attributes:
        source: Whose question it is.
        question: In short.
        answer: `yes`, `partly`, `no`, or `author` where only the author can tell.
        evidence: What in the runs it rests on, or what is missing.
    """

    source: str
    question: str
    answer: str
    evidence: str


def checklist(runs: Sequence[RunRecord], frame: pd.DataFrame | None, findings: Sequence[Verdict]) -> list[Item]:
    """Fill the checklist in.

    Args:
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
        findings: What `results.claims.judge` returns.
    """
    return [
        _claims(findings),
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
            "deposit what `salmask pack` makes, and cite its identifier",
        ),
        _complete(runs),
        _exercisable(runs),
        _reproduced(frame),
    ]


def _claims(findings: Sequence[Verdict]) -> Item:
    found = count(findings)
    supported, against = found[SUPPORTED], found[CONTRADICTED]
    said = ", ".join(f"{number} {verdict}" for verdict, number in found.items())
    answer = "no" if against or not supported else "yes" if supported == len(findings) else "partly"
    return Item("NeurIPS 1", "The claims are what the experiments show", answer, said)


def _described(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.run and run.attempts and _clean(run)]
    return _share(
        "NeurIPS 4", "Results can be reproduced from what is disclosed", good, runs, "with run.yaml and a clean commit"
    )


def _open_code(runs: Sequence[RunRecord]) -> Item:
    commits = sorted({attempt.get("commit", "unknown")[:7] for run in runs for attempt in run.attempts})
    return Item("NeurIPS 5", "Code and data are open", AUTHOR, f"commits used: {', '.join(commits) or 'none recorded'}")


def _settings(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.run]
    return _share("NeurIPS 6", "All settings are given", good, runs, "with every setting in run.yaml, listed below")


def _spread(frame: pd.DataFrame | None) -> Item:
    question = "Error bars and significance are reported"
    if frame is None:
        return Item("NeurIPS 7", question, "no", "no result yet")
    seeds = frame.groupby([*KEYS, "task", "metric", "method"], observed=True)["seed"].nunique()
    fewest = int(seeds.min())
    answer = "yes" if fewest >= 3 else "partly" if int(seeds.max()) > 1 else "no"
    return Item(
        "NeurIPS 7",
        question,
        answer,
        f"{fewest} to {int(seeds.max())} seeds a cell; sample standard deviations, paired 95 % intervals, p after Holm",
    )


def _compute(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.attempts and run.training_seconds]
    hours = sum(run.training_seconds or 0 for run in good) / 3600
    devices = sorted({str(run.attempts[-1].get("device", "?")) for run in good})
    item = _share("NeurIPS 8", "Compute is given for each experiment", good, runs, "with device and training time")
    return Item(
        item.source, item.question, item.answer, f"{item.evidence}; {hours:.2f} h in all on {', '.join(devices) or '–'}"
    )


def _data(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.attempts and run.attempts[-1].get("data")]
    return _share("NeurIPS 13", "Data are identified exactly", good, runs, "with a fingerprint of the images they saw")


def _complete(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.state == "done"]
    return _share("ACM Functional", "Complete: every run that was begun is finished", good, runs, "finished")


def _exercisable(runs: Sequence[RunRecord]) -> Item:
    good = [run for run in runs if run.run]
    return _share("ACM Functional", "Exercisable: a command makes each run again", good, runs, "with commands below")


def _reproduced(frame: pd.DataFrame | None) -> Item:
    question = "Results reproduced at the paper's scale"
    full = 0 if frame is None else int(frame[frame["scale"] == ""]["run_id"].nunique())
    if not full:
        return Item("ACM Reproduced", question, "no", "no run at the paper's scale; tiny runs show that the code works")
    return Item(
        "ACM Reproduced", question, "partly", f"{full} runs at the paper's scale; the differences are in the tables"
    )


def _clean(run: RunRecord) -> bool:
    return all(a.get("commit", "unknown") != "unknown" and not a.get("dirty") for a in run.attempts)


def _share(source: str, question: str, good: Sequence[RunRecord], runs: Sequence[RunRecord], what: str) -> Item:
    answer = "no" if not good else "yes" if len(good) == len(runs) else "partly"
    missing = [run.name for run in runs if run not in good][:3]
    without = f"; not: {', '.join(missing)}" + (" …" if len(runs) - len(good) > 3 else "") if missing else ""
    return Item(source, question, answer, f"{len(good)} of {len(runs)} runs {what}{without}")
