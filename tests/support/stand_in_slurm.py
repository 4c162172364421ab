"""A Slurm that accepts, refuses and forgets jobs as a test tells it: one program for all commands, a file as queue."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """#!{python} -S
import fcntl, os, re, sys, time
place, words = {place!r}, sys.argv[1:]
path = lambda name: os.path.join(place, name)
def read(name):
    return open(path(name)).read() if os.path.exists(path(name)) else ""
lock = open(path("lock"), "w"); fcntl.flock(lock, fcntl.LOCK_EX)
def take(name):
    lines = read(name).splitlines()
    open(path(name), "w").write("".join(line + "\\n" for line in lines[1:]))
    return lines[0] if lines else ""
def fail(text):
    print(text, file=sys.stderr); sys.exit(1)
command = os.path.basename(sys.argv[0])
open(path("calls"), "a").write(" ".join([command, *words]) + "\\n")
trouble = take(command + "_troubles")
if trouble not in ("", "ok"):
    fail(command + ": error: " + trouble)
if command == "squeue":
    print(read("queue"), end="")
elif command == "sacct":
    print(read("accounting"), end="")
elif command == "scontrol":
    print(read("job") if words[:2] == ["show", "job"] else "MaxArraySize = " + (read("told_max_array") or "1001"))
elif command == "scancel":
    ids = lambda line: (line.partition("|")[0], line.partition("_")[0])
    lines = [line for line in read("queue").splitlines() if not any(each in words for each in ids(line))]
    open(path("queue"), "w").write("".join(line + "\\n" for line in lines))
elif command == "sbatch":
    open(path("environment"), "w").write("".join(name + "\\n" for name in os.environ))
    kind, _, text = take("faults").partition(":")
    if kind == "sleep":
        fcntl.flock(lock, fcntl.LOCK_UN); time.sleep(float(text)); fcntl.flock(lock, fcntl.LOCK_EX)
    queued = read("queue").splitlines() + read("late").splitlines()
    open(path("late"), "w").close()
    open(path("queue"), "w").write("".join(line + "\\n" for line in queued))
    if kind == "fail":
        fail("sbatch: error: " + text)
    script = open(words[-1]).read()
    option = lambda name: (re.findall("^#SBATCH --" + name + "=(.*)$", script, re.M) or [""])[0]
    numbers = []
    for span in option("array").partition("%")[0].split(","):
        first, _, last = span.partition("-")
        numbers += range(int(first), int(last or first) + 1) if first else []
    if len(queued) + max(1, len(numbers)) > int(read("room") or 10**6):
        fail("sbatch: error: QOSMaxSubmitJobPerUserLimit\\nsbatch: error: Batch job submission failed: "
             "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)")
    if len(numbers) > int(read("max_array") or 10**6):
        fail("sbatch: error: Batch job submission failed: Invalid job array specification")
    job = int(read("number") or 100) + 1
    open(path("number"), "w").write(str(job))
    open(path("script-%d.sh" % job), "w").write(script)
    ids = ["%d_%d" % (job, number) for number in numbers] or [str(job)]
    late = []
    taker = late if kind == "late" else queued
    why = read("reason").strip() or "Dependency"
    for each in ids:
        taker.append("%s|%s|PENDING|%s|N/A|N/A||low|" % (each, option("job-name"), why))
    open(path("queue"), "w").write("".join(line + "\\n" for line in queued))
    open(path("late"), "w").write("".join(line + "\\n" for line in late))
    if kind == "accept" and text == "killed":
        os.kill(os.getpid(), 9)
    if kind in ("accept", "late"):
        fail("sbatch: error: " + text)
    print(text if kind == "print" else job)
"""


class StandInSlurm:
    """The folder of the commands and of the files by which a test controls them."""

    def __init__(self, place: Path) -> None:
        """Write the commands."""
        self.place = place
        place.mkdir()
        for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
            (place / name).write_text(PROGRAM.format(python=sys.executable, place=str(place)))
            (place / name).chmod(0o755)

    def tell(self, name: str, *lines: str) -> None:
        """Write one of the files that control the commands.

        `faults`: one line for each of the next calls of sbatch. `fail:WORDS` refuses the job; `accept:WORDS` fails
        although the job is queued; `late:WORDS` fails, and the job is queued only at the next call; `accept:killed`
        ends by SIGKILL with the job queued; `print:WORDS` prints these words instead of the job's id; `sleep:SECONDS`
        waits first; any other line is no fault.

        `COMMAND_troubles`: errors with which the next calls of a command fail, `ok` for a call that does not. `room`:
        how many jobs the queue takes; `max_array`: how long an array may be; `told_max_array`: what scontrol says of
        that; `accounting`: what sacct prints; `job`: what scontrol shows of a job; `reason`: why new jobs are pending.
        """
        (self.place / name).write_text("".join(line + "\n" for line in lines))

    @property
    def queue(self) -> list[str]:
        """Lines of squeue."""
        path = self.place / "queue"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def ids(self) -> list[str]:
        """Ids of all that is queued."""
        return [line.partition("|")[0] for line in self.queue]

    def change(self, change: Callable[[str], str | None]) -> None:
        """Change every line of the queue; None takes it out."""
        lines = [changed for line in self.queue if (changed := change(line)) is not None]
        self.tell("queue", *lines)

    def calls(self, command: str) -> list[str]:
        """The calls of one command."""
        path = self.place / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == command]

    @property
    def environment(self) -> list[str]:
        """Names of the environment variables of the last call of sbatch."""
        return (self.place / "environment").read_text().splitlines()

    def option(self, job: int, name: str) -> str:
        """An option of a job's script; empty where it has none."""
        script = (self.place / f"script-{job}.sh").read_text()
        return next(
            (line.partition("=")[2] for line in script.splitlines() if line.startswith(f"#SBATCH --{name}=")), ""
        )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInSlurm:
    """A stand-in Slurm, first on PATH; retries of sbatch do not wait."""
    made = StandInSlurm(tmp_path / "slurm-commands")
    monkeypatch.setenv("PATH", f"{made.place}:{os.environ['PATH']}")
    monkeypatch.setattr("slurm.submission.sbatch_call.WAITS", (0.0, 0.0, 0.0, 0.0))
    return made
