"""`salmask cancel`."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from sweep_samples import ELSEWHERE, HERE, FakeSlurm, Sweep
from training_samples import salmask, tiny


def test_cancelling_is_one_call_with_every_job_that_lives(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    second = Sweep(sweep.place, tiny(changes={"seed": 1}))
    sweep.submitted(job="812_0")
    sweep.submitted("linear", job="813_0")
    sweep.submitted("knn", job="", submission="killed-launcher")
    second.folder.prepare(second.run)
    second.submitted(job="812_1")
    slurm.says(
        "squeue",
        "812_0|x|RUNNING|None|1|N/A|n1|gpu|0|",
        "812_1|x|COMPLETED|None|1|2|n1|gpu|0|",
        "813_0|x|PENDING|Dependency|N/A|N/A||gpu|0|",
        "99|killed-launcher|PENDING|Priority|N/A|N/A||gpu|0|",
        "77|another's|RUNNING|None|1|N/A|n1|gpu|0|",
    )
    rehearsal = salmask("cancel", "table1", "--dry-run")
    assert rehearsal.out == "would cancel 3 jobs: 812_0, 813_0, 99\n"
    assert [call.split()[0] for call in slurm.calls] == ["squeue"]
    assert salmask("cancel", "table1").out == "cancelled 3 jobs: 812_0, 813_0, 99\n"
    assert slurm.calls[2:] == ["scancel 812_0 813_0 99"]
    assert json.loads(salmask("cancel", str(second.folder.path), "--json").out)["cancelled"] == []
    assert len(slurm.calls) == 4
    slurm.fails("scancel", "scancel: error: Kill job error: Access/permission denied")
    assert "Access/permission denied; mend: try again, or scancel by hand" in salmask("cancel", "table1").err


def test_what_was_cancelled_stays_so_when_slurm_has_forgotten_it(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    """Without accounting the queue forgets; the record must keep `retry --failed` from handing these over."""
    for task, job in (("pretrain", "812_0"), ("linear", "813_0"), ("knn", "814_1")):
        sweep.submitted(task, job=job)
    sweep.says("interrupted", age=0, step=3, steps=9)
    waiting = "|x|PENDING|Dependency|N/A|N/A||gpu|0|"
    slurm.says("squeue", "812_0|x|RUNNING|None|1|N/A|n1|gpu|0|", f"813_0{waiting}", f"814_1{waiting}")
    assert salmask("cancel", "table1", "--dry-run").out.startswith("would cancel 3 jobs")
    assert not any(entry.cancelled for entry in sweep.ledger.submissions())
    assert salmask("cancel", "table1").out == "cancelled 3 jobs: 812_0, 813_0, 814_1\n"
    slurm.says("squeue")
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    jobs = json.loads(salmask("status", "table1", "--json").out)["jobs"]
    assert {(row["state"], row["note"]) for row in jobs} == {("cancelled", "by salmask cancel")}
    assert salmask("retry", "table1", "--failed", "--dry-run").out == "nothing to retry\n"
    # Handed over again, it is a new job, of which the old record says nothing.
    sweep.submitted(job="900")
    slurm.says("squeue", "900|x|PENDING|Priority|N/A|N/A||gpu|0|")
    assert json.loads(salmask("status", "table1", "--json").out)["counts"] == {"preempted": 1, "cancelled": 2}


def test_cancelling_a_local_job_asks_its_process_to_stop(sweep: Sweep, runs: Path, slurm: FakeSlurm) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "mine"])
    try:
        sweep.submitted(job=str(process.pid), executor="local", submission="mine", host=HERE)
        # Of another machine: one that was started anew, one that is done, one that may run.
        sweep.submitted("linear", job="4710", executor="local", submission="before", host=ELSEWHERE)
        sweep.submitted("linear", job="4711", executor="local", submission="theirs", host=ELSEWHERE)
        done = Sweep(sweep.place, tiny(changes={"seed": 1}))
        done.folder.prepare(done.run)
        done.folder.backbone.touch()
        done.submitted(job="4709", executor="local", submission="done", host=ELSEWHERE)
        outcome = salmask("cancel", "table1")
        assert outcome.out.splitlines() == [
            f"cancelled 1 jobs: {process.pid}",
            f"started on another machine, end it there: {ELSEWHERE}: 4711",
        ]
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()
