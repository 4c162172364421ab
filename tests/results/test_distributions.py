"""The distributions are those of scipy.stats, which no command that prints a table imports."""

import subprocess
import sys

import numpy as np
import pytest
from places import EXAMPLES
from scipy import stats

from results.statistics.distributions import POWER, difference_found, f_above, fair_coin_p, t_quantile, two_sided_p


@pytest.mark.parametrize("degrees", [1, 2, 4, 39, 2.7])
def test_students_t_and_f_are_scipys(degrees: float) -> None:
    statistics = [0.0, 0.3, -2.0, 12.0, 1e6, np.inf]
    assert [two_sided_p(value, degrees) for value in statistics] == pytest.approx(
        [2 * stats.t.sf(abs(value), degrees) for value in statistics], rel=1e-12
    )
    shares = np.array([0.9, 0.975, 1 - 0.05 / 350])
    assert [t_quantile(share, degrees) for share in shares] == pytest.approx(stats.t.ppf(shares, degrees), rel=1e-12)
    assert f_above(3.3, degrees, 7) == pytest.approx(stats.f.sf(3.3, degrees, 7), rel=1e-12)


@pytest.mark.parametrize("level", [0.05, 0.01, 0.05 / 175])
def test_a_difference_of_so_many_errors_is_found_with_the_power(level: float) -> None:
    degrees = np.arange(1, 100)
    critical = stats.t.isf(level / 2, degrees)
    assert stats.nct.sf(critical, degrees, difference_found(degrees, level)) == pytest.approx(POWER, abs=1e-4)


def test_the_binomial_test_is_exact() -> None:
    counts = np.random.default_rng(0).integers(0, 300, (200, 2)).tolist()
    for heads, tails in [*counts, (5, 5), (0, 9), (1, 0)]:
        exact = stats.binomtest(heads, heads + tails).pvalue
        assert fair_coin_p(heads, tails) == pytest.approx(exact, rel=1e-9), (heads, tails)
    assert fair_coin_p(0, 0) == 1.0


def test_no_table_waits_for_the_import_of_scipys_statistics() -> None:
    runs = str(EXAMPLES / "reproduced")
    code = "import sys; from repro.cli import main; sys.argv = ['salmask', 'claims', '--runs', sys.argv[1]]\n"
    code += "try: main()\nexcept SystemExit: pass\nprint('scipy.stats' in sys.modules, 'scipy.special' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, runs], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False True"
