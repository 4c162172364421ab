"""The processes of a job on this machine: how one ended, and why one cannot begin."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_samples import graph_of, launched

from repro.errors import UserError
from repro.runs.folder import RunFolder
from slurm.jobs.calls import write_calls
from slurm.jobs.causes import cause_of
from slurm.jobs.job import Call
from slurm.jobs.orders import write_order
from slurm.local.endings import reason_of
from slurm.local.processes import LocalJob, start


def test_a_process_that_ended_by_a_signal_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    """The launcher used to fail on such a signal, and stopped the jobs that ran beside it."""
    process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 40)"], process_group=0)
    process.wait()
    job = LocalJob(tmp_path, [process])
    assert job.ended()
    assert job.failure == "the process was killed by signal 40"


@pytest.mark.parametrize(
    ("number", "mend"),
    [(errno.EAGAIN, "end other processes"), (errno.ENOSPC, "free some space there"), (errno.ENOENT, "salmask doctor")],
)
def test_what_keeps_a_job_from_starting_is_told_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    """The mend used to be to free some space, whatever the error was."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("slurm.local.processes.subprocess.Popen", refuse)
    with pytest.raises(UserError) as refusal:
        start(tmp_path / "s-1", Call(tmp_path, "pretrain", "a:b", 1))
    assert str(refusal.value) == f"cannot start a job in {tmp_path / 's-1'}: {os.strerror(number)}; mend: {mend}"


@pytest.mark.parametrize("earlier", [{"state": "failed", "error": "no root"}, {"state": "interrupted", "step": 3}])
def test_how_an_earlier_attempt_ended_is_not_told_of_one_that_said_nothing(
    programs: Path, tmp_path: Path, earlier: dict[str, Any]
) -> None:
    """If a process was killed while it imported, the cause of the attempt before used to be told, and no log."""
    graph = graph_of(tmp_path / "sweep", 1)
    (job,) = graph.jobs
    job.folder.prepare(job.run)
    job.folder.set_status(**earlier)
    (reason,) = launched(graph, "no_such_program").failed.values()
    assert re.match(r"the process ended with status 1; see .*_0_log\.err$", reason)


def test_of_several_processes_one_that_was_interrupted_or_says_nothing_is_no_cause(tmp_path: Path) -> None:
    (job,) = graph_of(tmp_path / "sweep", 1).jobs
    words = [sys.executable, "-c", "raise SystemExit(3)"]
    process = LocalJob(tmp_path, [subprocess.Popen(words, process_group=0) for _ in range(2)])
    for rank in process.ranks:
        rank.wait()
    assert process.ended()
    assert reason_of(job, process) == f"rank 0 ended with status 3; see {process.log(0, 'err')}"
    first = tmp_path / f"{process.id}_0_log.err"
    first.write_text("ValueError: no such class\n")
    assert reason_of(job, process) == "rank 0: ValueError: no such class"
    first.unlink()
    (tmp_path / f"{process.id}_1_log.err").write_text("torch.OutOfMemoryError: CUDA out of memory.\n")
    told = reason_of(job, process)
    assert told.startswith("rank 1: ")
    # The launcher writes such a status if rank 0 could not: it does not come from the process itself.
    status = job.folder.status("pretrain")
    assert status is not None
    assert (status.state, status.error) == ("failed", told)
    content = json.loads((job.folder.path / "status.json").read_text())
    content |= {"state": "interrupted", "pid": int(process.id)}
    (job.folder.path / "status.json").write_text(json.dumps(content))
    assert reason_of(job, process) == "interrupted; the same command begins anew"


def test_of_a_rank_that_was_killed_that_is_told_and_of_an_evaluation_its_own_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pretraining,) = graph_of(tmp_path / "sweep", 1).jobs
    job = replace(pretraining, task="linear")
    scripts = ("raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)")
    ranks: list[subprocess.Popen[bytes]] = []
    for script in scripts:
        ranks.append(subprocess.Popen([sys.executable, "-c", script], process_group=ranks[0].pid if ranks else 0))
    process = LocalJob(tmp_path, ranks)
    for rank in ranks:
        rank.wait()
    assert process.ended()
    (tmp_path / f"{process.id}_0_log.err").write_text("ValueError: no such class\n")
    assert reason_of(job, process) == "rank 1 was killed by SIGKILL"
    status = job.folder.status("linear")
    assert status is not None
    assert (status.state, status.error) == ("failed", "rank 1 was killed by SIGKILL")
    assert job.folder.status("pretrain") is None
    # Of what is interrupted, only its own checkpoints tell whether it goes on.
    checkpoint = job.folder.path / "probes" / "scenes-linear-moco-v1" / "checkpoints" / "step_00000003.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for each, goes_on in ((job, "resumes from its last checkpoint"), (pretraining, "begins anew")):
        job.folder.set_status("interrupted", task=each.task)
        assert reason_of(each, None) == f"interrupted; the same command {goes_on}"

    def refuse(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(RunFolder, "set_status", refuse)
    assert reason_of(job, process) == "rank 1 was killed by SIGKILL"


def test_what_a_job_said_last_is_why_it_has_no_result(tmp_path: Path) -> None:
    (job,) = graph_of(tmp_path / "sweep", 1).jobs
    assert reason_of(job, None) == "it ended without a result"
    job.folder.prepare(job.run)
    job.folder.set_status("failed", error="no root")
    assert reason_of(job, None) == "no root"
    job.folder.set_status("failed", error="of an earlier attempt", pid=1)
    assert reason_of(job, None) == "it ended without a result"
    job.folder.set_status("interrupted")
    assert reason_of(job, None) == "interrupted; the same command begins anew"


RAISING = """
import errno, os
def space(*_, wait): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "features")
def memory(*_, wait): raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
def peer(*_, wait): raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2")
def bug(*_, wait): raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "features")
"""


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("space", "Error: features: No space left on device; mend: free some space, and repeat"),
        ("memory", "Error: main memory was full ("),
        ("peer", "Error: another process of this run ended, or cannot be reached any more ("),
        ("bug", "Traceback (most recent call last):"),
    ],
)
def test_of_what_is_the_machines_matter_a_jobs_log_has_one_line_and_of_a_bug_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, line: str
) -> None:
    """Unforeseen errors of the machine used to leave a traceback in the log, whose last line held no mend."""
    (tmp_path / "raising.py").write_text(RAISING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (job,) = graph_of(tmp_path / "sweep", 1).jobs
    write_order(job.run, job.folder, "pretrain")
    folder = tmp_path / "submission"
    write_calls(folder, {0: Call(job.folder.path, "pretrain", f"raising:{function}")})
    ended = subprocess.run([sys.executable, "-m", "slurm.start", folder], capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    assert lines[0].startswith(line)
    assert (len(lines) == 1, ended.returncode) == ((True, 2) if function != "bug" else (False, 1))
    assert cause_of(ended.stderr) == (lines[0] if function != "bug" else lines[-1])
