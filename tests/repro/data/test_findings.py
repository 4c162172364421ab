"""Faults of annotations: boxes that reach out of their image, and the one line that sums up all faults."""

import pytest
from error_samples import message_of

from repro.data.annotations.findings import LISTED, BoxCorners, Survey, box_fault


@pytest.mark.parametrize("box", [(-1, -1, 11, 6), (0, 0, 10, 5), (4, 4, 4, 4)])
def test_a_box_may_end_a_pixel_beyond_the_edge(box: BoxCorners) -> None:
    assert box_fault(box, (10, 5)) == ""


@pytest.mark.parametrize("box", [(-1.5, 0, 1, 1), (0, -1.5, 1, 1), (0, 0, 11.5, 1), (0, 0, 1, 6.5)])
def test_a_box_further_out_is_told(box: BoxCorners) -> None:
    corners = ", ".join(map(str, box))
    assert box_fault(box, (10, 5)) == f"a box ({corners}) reaches out of the image of 10×5 pixels"


@pytest.mark.parametrize("more", [0, 1, LISTED - 1, LISTED, LISTED + 1])
def test_the_first_findings_are_listed_and_the_others_counted(more: int) -> None:
    survey = Survey()
    survey.refuse()
    for number in range(1 + more):
        survey.add("unreadable", f"/{number}", "torn", f"replace /{number}")
    others = [f"/{number}: torn" for number in range(1, min(1 + more, LISTED))]
    if more >= LISTED:
        others.append(f"{more - LISTED + 1} that `salmask data verify` lists")
    listed = f" (and {more} more: {'; '.join(others)})" if more else ""
    assert message_of(survey.refuse) == f"/0: torn{listed}; mend: replace /0"
