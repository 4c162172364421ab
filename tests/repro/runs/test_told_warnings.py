import json
import logging
from pathlib import Path

import pytest
from training_samples import tiny

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.runs.told_warnings import LONGEST_WARNING, MOST_WARNINGS

LOG = logging.getLogger("salmask")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tiny(), tmp_path / "sweep")


def warnings(folder: RunFolder, task: str = "pretrain") -> tuple[str, ...]:
    status = folder.status(task)
    assert status is not None
    return status.warnings


def test_a_status_tells_what_its_attempt_has_warned_of_each_once(folder: RunFolder) -> None:
    with folder.attempt("pretrain"):
        assert warnings(folder) == ()
        for share in ("24%", "24%", "31%"):
            LOG.warning("steps wait for data %s\n of the time", share)
        LOG.info("loaded")
        logging.getLogger("elsewhere").warning("not ours")
        folder.tell_progress("pretrain", 3, 9, "steps")
        first = ("steps wait for data 24% of the time", "steps wait for data 31% of the time")
        assert warnings(folder) == first
        tell_symptoms(folder.health, [Symptom("collapsed features", 100, "rank 1.1", "a lower lr")])
    assert warnings(folder) == (*first, "collapsed features at step 100: rank 1.1; mend: a lower lr")
    LOG.warning("of no attempt")
    folder.set_status("done", task="pretrain")
    assert len(warnings(folder)) == 3


def test_warnings_are_those_of_the_last_attempt_and_of_its_task(folder: RunFolder) -> None:
    with folder.attempt("linear"):
        LOG.warning("all features are the same")
    with folder.attempt("pretrain"):
        LOG.warning("falling back")
    assert (warnings(folder), warnings(folder, "linear")) == (("falling back",), ("all features are the same",))
    with folder.attempt("pretrain"):
        assert warnings(folder) == ()
    assert warnings(folder) == ()
    assert not LOG.handlers


def test_a_loop_that_warns_on_and_on_fills_no_status(folder: RunFolder) -> None:
    with folder.attempt("pretrain"):
        for number in range(100):
            LOG.warning("%d %s", number, "\x1b" * LONGEST_WARNING)
    told = warnings(folder)
    assert [text.split()[0] for text in told] == [str(number) for number in range(MOST_WARNINGS)]
    assert {len(text) for text in told} == {LONGEST_WARNING}
    assert "\x1b" not in "".join(told)


def test_a_status_whose_warnings_are_no_texts_is_refused(folder: RunFolder) -> None:
    folder.set_status("done", task="pretrain")
    path = folder.path / "status.json"
    for damaged, fault in ((["a", 1], "lists a int, not str"), ("a", "is str, not list")):
        path.write_text(json.dumps({**json.loads(path.read_text()), "warnings": damaged}))
        with pytest.raises(UserError, match=f"its field 'warnings' {fault}"):
            folder.status("pretrain")
