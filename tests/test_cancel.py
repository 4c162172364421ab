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


def test_cancelling_a_local_job_asks_its_process_to_stop(sweep: Sweep, runs: Path, slurm: FakeSlurm) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "mine"])
    try:
        sweep.submitted(job=str(process.pid), executor="local", submission="mine", host=HERE)
        sweep.submitted("linear", job="4711", executor="local", submission="theirs", host=ELSEWHERE)
        outcome = salmask("cancel", "table1")
        assert outcome.out.splitlines() == [
            f"cancelled 1 jobs: {process.pid}",
            f"started on another machine, end it there: {ELSEWHERE}: 4711",
        ]
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()
