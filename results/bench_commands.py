"""`salmask bench collect` times the reading of results; `bench power` and `bench claims` count errors of the tests."""

from typing import Annotated

import typer

from repro.command_line.console import AsJson, comma_list
from repro.command_line.console import report as print_content
from repro.errors import UserError
from repro.quantities import decimal_number, whole_number

MOST_GAIN = 50
"""Differences that `bench power` draws are below this, in points."""
MOST_SEEDS = 100
"""The largest number of seeds that `bench claims` draws."""
MOST_SCATTER = 50
"""The largest standard deviation between runs that is drawn, in points."""


def bench_collect(
    rows: Annotated[int, typer.Option(min=1, help="Result rows.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Time collecting a million result rows and making Table 1 of them.

    Example: salmask bench collect --rows 1000000
    """
    from results.bench import collecting

    print_content(as_json, collecting(rows))


def bench_power(
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of methods drawn for each line.")] = 2000,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each method.")] = 3,
    images: Annotated[int, typer.Option(min=2, help="Scored images.")] = 5000,
    luck: Annotated[
        float, typer.Option(min=0, max=MOST_SCATTER, help="Standard deviation between runs, in points.")
    ] = 0.3,
    gains: Annotated[str, typer.Option(help="True differences in points, with commas between.")] = "0,0.5,1,1.5,2",
    as_json: AsJson = False,
) -> None:
    """Count how often tests find a difference, rightly or falsely: by seeds alone, and by seeds and images.

    Example: salmask bench power --pairs 2000
    """
    from results.statistics.power import power_table

    words = comma_list("--gains", gains)
    try:
        true_gains = [decimal_number(word) for word in words or [""]]
    except ValueError:
        raise UserError(f"--gains {gains}: differences are numbers of points", mend="--gains 0,1") from None
    if not all(0 <= gain < MOST_GAIN for gain in true_gains):
        raise UserError(f"--gains {gains}: a difference is 0 to {MOST_GAIN} points", mend="--gains 0,1")
    lines = power_table(true_gains, pairs=pairs, seeds=seeds, images=images, luck=luck)
    print_content(as_json, lines)


def bench_claims(
    noise: Annotated[
        float, typer.Option(min=0, max=MOST_SCATTER, help="Standard deviation between runs, in points.")
    ] = 0.3,
    seeds: Annotated[str, typer.Option(help="Numbers of seeds, with commas between.")] = "2,3,5",
    draws: Annotated[int, typer.Option(min=1, help="Perfect reproductions drawn for each line.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Draw perfect reproductions (the published numbers with noise), and count the verdicts of each test of the claims.

    Example: salmask bench claims --noise 0.3 --seeds 2,3,5
    """
    from results.claims.power import claim_power

    words = comma_list("--seeds", seeds)
    try:
        numbers = [whole_number(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or not all(2 <= number <= MOST_SEEDS for number in numbers):
        raise UserError(f"--seeds {seeds}: numbers from 2 to {MOST_SEEDS}, with commas between", mend="--seeds 2,3,5")
    print_content(as_json, claim_power(numbers, noise=noise, draws=draws))
