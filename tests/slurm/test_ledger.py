"""What a launch writes down of its jobs, and what the next one adopts of a launch that was killed."""

import json
import re
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from error_samples import message_of

from repro.jobs import PROGRAM
from slurm.jobs.calls import write_calls
from slurm.jobs.job import Call
from slurm.monitoring.queue import QueuedJob, QueueSnapshot
from slurm.submission.adoption import adopt, adopt_local
from slurm.sweep_folder.ledger import Ledger, Submission


def entry(**changes: Any) -> Submission:
    values = {"submission": "s-pretrain-1", "executor": "slurm", "cluster": "c", "run": "ab", "folder": "m/s0-ab"}
    return Submission(**{**values, "task": "pretrain", **changes})


def test_jobs_of_a_killed_launcher_are_adopted_with_their_numbers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    entries = [entry(submission="s-pretrain-1", folder=f"m/s{seed}-ab") for seed in range(3)]
    never_sent = [entry(submission="never-sent", folder=f"m/s{seed}-ab") for seed in (8, 9)]
    of_no_file = [entry(submission="s-linear-1", folder=f"m/s{seed}-ab") for seed in (6, 7)]
    ledger.intend([*entries, *never_sent, *of_no_file])
    folders = zip((1, 4, 5), (e.folder for e in entries), strict=True)
    calls = {index: Call(tmp_path / folder, "pretrain", PROGRAM.task) for index, folder in folders}
    write_calls(ledger.logs / "s-pretrain-1", calls)
    jobs = {f"812_{n}": QueuedJob(f"812_{n}", "s-pretrain-1", "PENDING") for n in (1, 5)}  # 812_4 has been forgotten
    # Its calls cannot be read, so that the order of the intents counts.
    jobs |= {"813_1": QueuedJob("813_1", "s-linear-1", "PENDING")}
    adopt(ledger, QueueSnapshot(jobs))
    assert [e.job for e in ledger.submissions()] == ["812_1", "812_4", "812_5", "", "", "813_0", "813_1"]
    before = ledger.path.read_bytes()
    adopt(ledger, QueueSnapshot(jobs))
    assert ledger.path.read_bytes() == before


def test_of_this_machines_jobs_those_without_an_id_are_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm.submission.adoption.process_of", lambda name: f"process of {name}")
    ledger, here = Ledger(tmp_path), {"executor": "local", "host": socket.gethostname()}
    changes: dict[str, dict[str, Any]] = {
        "begun": here,
        "known": here,
        "elsewhere": {**here, "host": "another machine"},
        "slurms": {**here, "executor": "slurm"},
        "cancelled": here,
        "waiting": here,
    }
    entries = {name: entry(submission=name, folder=f"m/{name}", **values) for name, values in changes.items()}
    ledger.intend([*entries.values()])
    ledger.submitted([replace(entries["known"], job="7")])
    ledger.cancelled([entries["cancelled"]])
    for name in changes:
        if name != "waiting":
            (ledger.logs / name).mkdir(parents=True)
    adopt_local(ledger)
    assert [e.job for e in ledger.submissions()] == ["process of begun", "7", "", "", "", ""]


def test_the_ledger_keeps_the_last_word_and_survives_a_torn_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    assert ledger.submissions() == []
    first, second = entry(), entry(submission="s-linear-2", task="linear", after=("812",))
    ledger.intend([first, second])
    assert [e.job for e in ledger.submissions()] == ["", ""]
    ledger.submitted([replace(first, job="812")])
    with ledger.path.open("a") as file:
        file.write('{"submission": "torn')
    ledger.submitted([replace(second, job="813")])
    assert ledger.submissions() == [replace(first, job="812"), replace(second, job="813")]
    retried = replace(first, submission="s-pretrain-3", job="900")
    ledger.submitted([retried])
    assert ledger.newest()["m/s0-ab", "pretrain"] == retried
    assert ledger.newest()["m/s0-ab", "linear"].after == ("812",)
    # Another process's lines are seen at once, and lines with impossible numbers are skipped.
    Ledger(ledger.sweep).submitted([replace(retried, job="901", cpus=8, memory=2.5, planned_s=60.0)])
    (latest,) = [e for e in ledger.submissions() if e.submission == retried.submission]
    assert (latest.job, latest.cpus, latest.memory, latest.planned_s) == ("901", 8, 2.5, 60.0)
    before = ledger.submissions()
    for spoilt in (
        '"time": "2026-13-45"',
        '"time": "0001-01-01"',
        '"cpus": "8"',
        '"cpus": -8',
        '"cpus": true',
        '"memory": NaN',
        '"planned_s": []',
    ):
        line = json.dumps({**asdict(retried), "job": "999"})
        with ledger.path.open("a") as file:
            file.write(re.sub(f"{spoilt.partition(':')[0]}: [^,}}]+", spoilt, line) + "\n")
    assert ledger.submissions() == before
    assert retried.log(tmp_path, "err", 1) == tmp_path / "logs" / "s-pretrain-3" / "900_1_log.err"


def test_a_ledger_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.symlink_to(ledger.path.name)  # nobody can read it, not even root
    line = f"cannot read {ledger.path}: Too many levels of symbolic links; mend: its permissions"
    assert message_of(ledger.newest) == line
