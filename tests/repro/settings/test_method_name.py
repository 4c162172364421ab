"""A method's name in its parts: names of rows, of other people's methods, and any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import METHODS, resolve
from repro.settings.method_name import MethodName


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mocov2", ("mocov2", "", "", "")),
        ("supervised", ("supervised", "", "", "")),
        ("mocov2+mscn", ("mocov2", "mscn", "", "")),
        ("simclr+ours-hp", ("simclr", "ours-hp", "", "")),
        ("mocov2+ours-hp-no-hard-negative", ("mocov2", "ours-hp", "", "no-hard-negative")),
        ("mocov2+ours-blur@key", ("mocov2", "ours-blur", "key", "")),
        ("mocov2+ours-hp@both-no-hard-negative", ("mocov2", "ours-hp", "both", "no-hard-negative")),
        ("mocov2+ours-hp-ratio0.25-0.45", ("mocov2", "ours-hp", "", "ratio0.25-0.45")),
        ("mocov2+queue16k", ("mocov2", "", "", "queue16k")),
        # A user's own method: it has no masking of ours, though its name begins like a row's.
        ("mocov2+mine", ("mocov2", "", "", "mine")),
        ("mocov2+ours-hpx@key-mild", ("mocov2", "", "key", "ours-hpx-mild")),
        ("byol", ("byol", "", "", "")),
        ("byol@key", ("byol", "", "key", "")),
    ],
)
def test_a_name_has_parts(name: str, parts: tuple[str, str, str, str]) -> None:
    parsed = MethodName.parse(name)
    assert (parsed.framework, parsed.masking, parsed.branch, parsed.change) == parts


@pytest.mark.parametrize("name", METHODS)
def test_the_parts_of_our_rows_are_what_their_settings_say(name: str) -> None:
    parsed, run = MethodName.parse(name), resolve(name)
    assert parsed.framework == run.framework.value
    assert parsed.branch in ("", run.masking.branch.value)


@given(st.text(max_size=30))
def test_every_text_is_a_name(name: str) -> None:
    parsed = MethodName.parse(name)
    assert len("".join((parsed.framework, parsed.masking, parsed.branch, parsed.change))) <= len(name)
