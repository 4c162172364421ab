"""Decides the comparisons on clip art by the tests that the study's page registered, from the runs that are there.

    python -m examples.study.decide_clipart examples/study/clipart

Prints two Markdown tables, as those of `tables.py`: each row's top-1 by kNN and by logistic regression with its last
loss, and the three registered differences, corrected over these three.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.study.collapse import endings
from examples.study.command import print_tables
from examples.study.decide import CLIP_ART, STUDY, top1
from examples.study.tables import comparisons, means
from results.collection.collect import collect_runs
from results.collection.runs import find_runs, listed


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    runs = find_runs(folders)
    frame = collect_runs(runs, listed(folders))
    knn, logistic = (top1(frame, task, STUDY) for task in ("knn", "logistic"))
    yield means(knn, logistic, endings(runs, STUDY), CLIP_ART)
    yield comparisons(logistic, CLIP_ART)


if __name__ == "__main__":
    sys.exit(print_tables("Decides the comparisons on clip art by their registered tests.", _tables))
