"""Verdicts on comparisons as data, for `claims.json` and `salmask claims --json`."""

from collections.abc import Sequence

import pandas as pd

from results.claims.verdicts import Verdict


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Returns the verdicts as data, one line each."""
    return pd.DataFrame(
        {
            "claim": verdict.claim.family.id,
            "also": verdict.question.others,
            "table": verdict.claim.table,
            "where": verdict.where,
            "metric": verdict.metric,
            "split": verdict.column.split if verdict.column else "",
            "protocol": verdict.protocol,
            "fidelity": verdict.column.fidelity if verdict.column else "",
            "sweeps": " ".join(verdict.sweeps),
            "better": verdict.claim.better,
            "worse": verdict.claim.worse,
            "published": verdict.claim.published,
            "published_by": verdict.claim.published_by,
            "verdict": verdict.outcome,
            "n": verdict.comparison.n,
            "by": verdict.comparison.basis,
            "difference": verdict.comparison.mean,
            "low": (verdict.comparison.interval() or (None, None))[0],
            "high": (verdict.comparison.interval() or (None, None))[1],
            "low_corrected": (verdict.corrected_interval or (None, None))[0],
            "high_corrected": (verdict.corrected_interval or (None, None))[1],
            "p": verdict.comparison.p,
            "p_corrected": verdict.p,
            "scale": verdict.column.scale if verdict.column else "",
            "departures": _departures(verdict),
            "why": verdict.why,
            "says": verdict.claim.family.says,
            "source": str(verdict.claim.family.source),
        }
        for verdict in verdicts
    )


def _departures(verdict: Verdict) -> str:
    """Returns how the runs of the two methods depart from their rows, for readers of the data, which has no notes."""
    claim, comparisons = verdict.claim, verdict.column.comparisons if verdict.column else {}
    texts = {method: str(comparisons[method]) for method in (claim.better, claim.worse) if method in comparisons}
    return " | ".join(f"{method}: {text}" for method, text in texts.items() if text)
