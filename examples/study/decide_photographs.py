"""Decides the comparisons on photographs by the tests that the study's page registered, from the runs that are there.

    python -m examples.study.decide_photographs examples/study/photographs

Prints two Markdown tables, as those of `tables.py`: each row's top-1 by kNN and by logistic regression with its last
loss, and the registered differences, corrected over those of each question.
"""

import sys
from functools import partial

from examples.study.command import print_tables
from examples.study.decide import PARTS, PHOTOGRAPHS
from examples.study.tables import of_questions

if __name__ == "__main__":
    tables = partial(of_questions, questions=PHOTOGRAPHS, sweeps=PARTS)
    sys.exit(print_tables("Decides the comparisons on photographs by their registered tests.", tables))
