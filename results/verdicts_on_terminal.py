"""Verdicts on the paper's sentences and comparisons, as `salmask claims` prints them."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from repro.terminal import Console
from results.claim_families import FamilyVerdict
from results.claims import NOT_RUN, Verdict


def print_families(verdicts: Sequence[FamilyVerdict], console: Console) -> None:
    """Print each sentence with its source, and below it the verdict in each setting."""
    for family, of_family in groupby(verdicts, lambda verdict: verdict.family):
        console.print(f"[bold]{escape(family.says)}[/bold] ({family.source})", highlight=False)
        for verdict in of_family:
            run = sum(number for outcome, number in verdict.counts.items() if outcome != NOT_RUN)
            setting = f"{verdict.setting}: " if verdict.setting else ""
            counts = ", ".join(f"{number} {outcome}" for outcome, number in verdict.counts.items())
            outcome = f"{verdict.outcome} {verdict.scope}".strip()
            lines = [f"{setting}{outcome} ({counts})" if run else f"{outcome} ({verdict.counts[NOT_RUN]})"]
            mean, interval = verdict.comparison.mean, verdict.comparison.interval()
            if mean is not None:
                spread = f", 95 % {interval[0]:+.2f} … {interval[1]:+.2f}" if interval else ""
                p = "" if verdict.p is None else f", p {verdict.p:.3f}"
                lines.append(f"measured {mean:+.2f}{spread}{p}; paper {verdict.published:+.2f}; {verdict.why}")
            console.print(Padding("\n".join(map(escape, lines)), (0, 0, 0, 2), expand=False), highlight=False)
    console.print()


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print verdicts as a table, one line each."""
    console_table = Table(box=None, pad_edge=False)
    for head in ("verdict", "claim", "where", "paper", "measured (n)", "95 %", "p"):
        justify: Any = "left" if head in ("verdict", "claim", "where") else "right"
        console_table.add_column(head, overflow="fold", justify=justify)
    for verdict in verdicts:
        claim, comparison = verdict.claim, verdict.comparison
        mean, interval = comparison.mean, comparison.interval()
        console_table.add_row(
            verdict.outcome,
            escape(f"{claim.better} > {claim.worse}"),
            escape(verdict.where),
            f"{claim.published:+.2f}",
            "–" if mean is None else f"{mean:+.2f} ({comparison.n}{', images' if comparison.by_images else ''})",
            "–" if interval is None else f"{interval[0]:+.2f} … {interval[1]:+.2f}",
            "–" if verdict.p is None else f"{verdict.p:.3f}",
        )
    console.print(console_table)
