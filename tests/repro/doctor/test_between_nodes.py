"""What the doctor tells of two nodes (here, two processes): clocks, renames and locks, in order and spoilt."""

import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from training_samples import on_two_processes

from repro.doctor import between_nodes
from repro.doctor.between_nodes import check_between_nodes
from repro.doctor.diagnosis import Diagnosis

CHECKS = ("clocks of nodes", "rename seen by a node", "lock seen by a node")


def seen_by(number: int, place: Path) -> dict[str, list[Diagnosis]]:
    """The findings of each of two nodes; the second one is spoilt in three ways."""
    shared = place / "scratch"
    own = place / f"scratch-of-{number}"
    real_time = time.time
    spoilt = number == 1
    told = {}
    with patch.dict(os.environ, {"SLURMD_NODENAME": f"n{number + 1}"}), patch.object(between_nodes, "SEEN_SECONDS", 1):
        told["right"] = list(check_between_nodes(shared))
        with ExitStack() as faults:
            if spoilt:
                faults.enter_context(patch.object(time, "time", lambda: real_time() + 100))
                faults.enter_context(patch.object(fcntl, "flock", lambda *_: None))
            told["clock and locks"] = list(check_between_nodes(shared))
        told["not shared"] = list(check_between_nodes(own))
    with patch.dict(os.environ, {"SLURMD_NODENAME": "n1"}):
        told["one node"] = list(check_between_nodes(shared))
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, list[Diagnosis]]]:
    return on_two_processes(seen_by, tmp_path_factory.mktemp("nodes"))


def test_two_nodes_that_share_a_folder_are_in_order(told: Sequence[Mapping[str, list[Diagnosis]]]) -> None:
    assert told[0]["right"] == told[1]["right"]
    rows = {row.check: row for row in told[0]["right"]}
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["nodes"].found == "2: n1, n2"
    assert rows["rename seen by a node"].found.startswith("n2 sees a renamed file in ")
    assert rows["lock seen by a node"].found.endswith(" holds between n1 and n2")
    assert told[0]["one node"] == []


def test_clocks_locks_and_folders_that_are_not_one_are_told(told: Sequence[Mapping[str, list[Diagnosis]]]) -> None:
    rows = {row.check: row for row in told[0]["clock and locks"]}
    assert [rows[check].verdict for check in CHECKS] == ["wrong", "ok", "note"]
    assert rows["clocks of nodes"].found.startswith(("100.", "99.9"))
    assert rows["lock seen by a node"].found.startswith("n2 gets a lock that n1 holds")
    rows = {row.check: row for row in told[0]["not shared"]}
    assert [rows[check].verdict for check in CHECKS] == ["ok", "wrong", "note"]
    assert "n2 does not see a new file in " in rows["rename seen by a node"].found
    assert all(row.mend for row in rows.values() if row.verdict != "ok")


@pytest.mark.parametrize(
    ("while_held", "afterwards", "found"),
    [
        (
            "Stale file handle",
            True,
            "n2 cannot try a lock on {} (Stale file handle): only heartbeats keep two jobs apart",
        ),
        (
            False,
            "Stale file handle",
            "n2 cannot try a lock on {} (Stale file handle): only heartbeats keep two jobs apart",
        ),
        (False, False, "n2 does not get a lock on {} that n1 has given back"),
        (False, True, "a lock on {} holds between n1 and n2"),
    ],
)
def test_a_try_that_fails_is_not_told_as_a_lock_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_held: bool | str, afterwards: bool | str, found: str
) -> None:
    answers = iter((None, while_held, None, afterwards))
    monkeypatch.setattr(between_nodes, "_on", lambda *_: next(answers))
    row = between_nodes._lock(tmp_path / "file", 1, ("n1", "n2"))
    assert row.found == found.format(tmp_path)
    assert bool(row.mend) == (row.verdict == "note")


def test_nothing_is_left_in_the_folder(told: Sequence[Mapping[str, list[Diagnosis]]], tmp_path: Path) -> None:
    for place in tmp_path.parent.glob("nodes*"):
        assert not list(place.rglob(".doctor-nodes*"))
