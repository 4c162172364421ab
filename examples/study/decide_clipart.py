"""Decides the comparisons on clip art by the tests that the study's page registered, from the runs that are there.

    python -m examples.study.decide_clipart examples/study/clipart

Prints two Markdown tables, as those of `tables.py`: each row's top-1 by kNN and by logistic regression with its last
loss, and the six registered differences, corrected over the three of each framework.
"""

import sys
from functools import partial

from examples.study.command import print_tables
from examples.study.decide import CLIP_ART, PARTS
from examples.study.tables import of_questions

if __name__ == "__main__":
    tables = partial(of_questions, questions=CLIP_ART, sweeps=PARTS)
    sys.exit(print_tables("Decides the comparisons on clip art by their registered tests.", tables))
