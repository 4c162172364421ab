"""What this machine's status says of jobs that a launcher of another machine looks after."""

from pathlib import Path

from sweep_samples import ELSEWHERE, GONE, HERE, FakeSlurm, Sweep
from training_samples import salmask

from repro.runs.lock import STALE_SECONDS
from slurm.local import launch as local
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import State
from slurm.monitoring.status import is_under_way
from slurm.sweep_folder.ledger import LOCAL_LOCK


def test_what_waits_on_another_machine_is_no_concern_of_this_one(sweep: Sweep) -> None:
    entry = sweep.submitted(job="", executor="local", host=HERE)
    assert sweep.row(GONE).state is State.planned
    with local._under_way(sweep.place):
        assert sweep.row(GONE).state is State.queued
    assert (sweep.place / LOCAL_LOCK).exists()
    assert sweep.row(GONE).state is State.planned
    assert entry.job == ""


def test_what_a_launcher_of_another_machine_has_waiting_only_that_one_can_tell(
    sweep: Sweep, runs: Path, slurm: FakeSlurm
) -> None:
    sweep.submitted(job="", executor="local", host=ELSEWHERE)
    row = sweep.row(GONE)
    words = f"only {ELSEWHERE} can tell; mend: salmask status there, or the same salmask sweep again"
    assert (row.state, row.note) == (State.unknown, words)
    told = salmask("retry", "table1")
    assert (told.code, told.out) == (1, "nothing to retry\n")
    assert told.err == f"pretrain mocov2 s0: unknown, {words}\n"


def test_what_another_machine_began_just_now_need_not_have_said_anything_yet(sweep: Sweep) -> None:
    entry = sweep.submitted(job="77", executor="local", host=ELSEWHERE)

    def is_begun(seconds: float) -> bool:
        return is_under_way(sweep.place, (sweep.key, "pretrain"), entry, QueueSnapshot(), entry.written_at + seconds)

    assert (is_begun(STALE_SECONDS - 1), is_begun(STALE_SECONDS)) == (True, False)
    sweep.says("failed", age=9999)  # of an earlier attempt
    assert is_begun(STALE_SECONDS - 1)
    sweep.says("failed", age=0)
    assert not is_begun(STALE_SECONDS - 1)
