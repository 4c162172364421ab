"""The messages of errors, in the process that raises them and in others."""

import copy
import errno
import pickle

import pytest
from torch.utils.data import Dataset

from repro.data.roots import RootNotSetError
from repro.errors import (
    LONGEST_LIST,
    UserError,
    first_few,
    interruption,
    lost_process,
    nearest,
    one_line,
    shortened,
    system_mend,
    trouble_of_machine,
)
from repro.processes.loader import Loader
from slurm.jobs.causes import is_lost_peer


def test_an_error_is_one_line_with_its_mend() -> None:
    error = UserError("a.jpg: truncated", mend="replace it")
    assert (error.what, error.mend) == ("a.jpg: truncated", "replace it")
    assert str(error) == one_line(error) == "a.jpg: truncated; mend: replace it"


def test_an_error_without_a_mend_is_what_it_says() -> None:
    error = UserError("a.jpg: truncated")
    assert (str(error), error.mend) == ("a.jpg: truncated", "")


@pytest.mark.parametrize("kind", [UserError, RootNotSetError])
@pytest.mark.parametrize("mend", ["give --root DIR", ""])
def test_an_error_that_was_pickled_is_the_same(kind: type[UserError], mend: str) -> None:
    error = kind("no root set", mend=mend)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.what, again.mend, str(again)) == (error.what, error.mend, str(error))


def taken_for_a_fault(asked: BaseException, fault: Exception) -> None:
    try:
        raise asked
    except BaseException:
        raise fault  # noqa: B904  # as a library's bare `except` does


@pytest.mark.parametrize("asked", [KeyboardInterrupt(), SystemExit(143)])
def test_what_a_library_took_for_a_fault_is_an_interruption(asked: BaseException) -> None:
    assert interruption(asked) is asked
    for fault, found in ((SyntaxError("text"), asked), (UserError("the disk is full"), None)):
        with pytest.raises(type(fault)) as caught:
            taken_for_a_fault(asked, fault)
        assert interruption(caught.value) is found
    assert interruption(ValueError("x")) is None


class Refusing(Dataset[int]):
    """A data set whose only item cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.jpg: truncated", mend="replace it"), "a.jpg: truncated; mend: replace it"),
        (UserError("a.jpg: truncated"), "a.jpg: truncated"),
        (RootNotSetError("no root set", mend="give --root DIR"), "no root set; mend: give --root DIR"),
        (ValueError("two"), "ValueError: two"),
    ],
)
def test_of_an_error_in_a_loaders_worker_only_the_message_is_told(error: Exception, line: str) -> None:
    with pytest.raises(type(error)) as caught:
        list(Loader(Refusing(error), workers=1))
    assert "Original Traceback" in str(caught.value)
    assert one_line(caught.value) == line


def test_a_message_of_several_lines_becomes_one_and_no_message_the_errors_kind() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(AssertionError()) == "AssertionError"
    assert one_line(UserError("/my  photos\n/a.png: truncated")) == "/my  photos /a.png: truncated"


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(11, "Resource temporarily unavailable")]
)
def test_that_no_more_processes_may_be_begun_is_no_fault(error: Exception) -> None:
    """Under `ulimit -u`, a training used to end in a fault of salmask's own."""
    told = trouble_of_machine(error)
    what = f"no more processes or threads can be started ({error})"
    assert told.startswith(f"{what}; mend: end other processes, or raise")


@pytest.mark.parametrize("more", [("standard output",), (3,)], ids=["named", "partly written"])
def test_a_full_stream_that_does_not_wait_is_no_lack_of_processes(more: tuple[object, ...]) -> None:
    told = trouble_of_machine(BlockingIOError(errno.EAGAIN, "write could not complete without blocking", *more))
    assert told.endswith("write could not complete without blocking; mend: repeat, with the output sent to a file")


def test_the_machines_mend_goes_before_the_callers_unless_a_place_is_closed_full_or_missing() -> None:
    for number, mend in ((errno.EIO, "see whether the disk"), (errno.EMFILE, "raise `ulimit -n`")):
        assert system_mend(OSError(number, "refused"), "name another").startswith(mend)
    own = [OSError(number, "refused") for number in (errno.EACCES, errno.ENOSPC, errno.ENOENT)]
    assert {system_mend(error, "name another") for error in (*own, OSError(), ValueError())} == {"name another"}
    # A fault of this code may be why a file is missing.
    assert [bool(trouble_of_machine(error)) for error in own] == [True, True, False]


GLOO = "[/pytorch/gloo/transport/tcp/pair.cc:561] "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            f"{GLOO}Connection closed by peer [127.0.0.1]:25504. This is typically caused by a crash. GLHF!",
            "Connection closed by peer [127.0.0.1]:25504",
        ),
        (
            f"{GLOO}Read error [10.0.0.1]:7: Connection reset by peer",
            "Read error [10.0.0.1]:7: Connection reset by peer",
        ),
        (f"{GLOO}Timed out waiting 1800000ms for recv operation", "Timed out waiting 1800000ms for recv operation"),
        (
            "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error, NCCL version 2.27.5",
            "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error, NCCL version 2.27.5",
        ),
    ],
)
def test_that_another_process_is_gone_is_told_as_that(said: str, reason: str) -> None:
    """It used to be recorded as the run's failure, by a fault of salmask's own or of the code that waited."""
    told = lost_process(RuntimeError(said))
    assert told == (
        f"another process of this run ended, or cannot be reached any more ({reason}); mend: see what it "
        "printed; then the same command continues"
    )
    assert is_lost_peer(told)


@pytest.mark.parametrize("error", [RuntimeError("shape"), ConnectionResetError("by peer"), UserError("gloo/transport")])
def test_other_errors_are_not_told_as_that_of_another_process(error: Exception) -> None:
    assert lost_process(error) == ""


def test_an_unknown_name_is_answered_with_all_names_and_the_nearest() -> None:
    assert nearest("xyz", ["linear", "knn"]) == "one of linear, knn"
    assert nearest("linaer", ["linear", "knn"]) == "did you mean 'linear'? known: linear, knn"
    assert nearest("semi", iter(["semi-1", "semi-10"])).startswith("did you mean 'semi-1'? known: ")
    # The two dashes of all options do not count as likeness.
    assert nearest("--val", ["--as", "--out"]) == "one of --as, --out"
    assert nearest("--tets", ["--as", "--test"]) == "did you mean '--test'? known: --as, --test"


def test_of_many_names_only_near_ones_are_named() -> None:
    names = [f"method-{number:02}" for number in range(LONGEST_LIST + 1)]
    assert nearest("xyz", names) == "21 are known"
    assert nearest("method-7", names) == "did you mean 'method-17' or 'method-07' or 'method-20'? 21 are known"
    assert nearest("xyz", names[1:]) == f"one of {', '.join(names[1:])}"


def test_a_list_of_names_is_cut_short() -> None:
    assert shortened(["a", "b"]) == "2 (a, b)"
    assert shortened(list("abcdefg")) == "7 (a, b, c, d, e, …)"
    assert shortened(list("abc"), most=2) == "3 (a, b, …)"
    assert first_few(list("abcd")) == "a, b, c, d"
    assert first_few(list("abcdefg")) == "a, b, c, d and 3 more"
