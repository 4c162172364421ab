"""Jobs on this machine: their processes start from text files, share GPUs, stop and resume."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_samples import HERE_CLUSTER, graph_of, launched, seen, told
from places import SUPPORT
from rich.console import Console
from training_samples import refused, tiny
from waiting import wait_until

from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from repro.runs.status import Status
from slurm.jobs.calls import read_call
from slurm.jobs.job import Call
from slurm.local.devices import Places, chosen_devices
from slurm.local.launch import LocalLaunch
from slurm.local.processes import LocalJob
from slurm.planning.graph import Graph, Job, make_graph
from slurm.profiles.profile import Cluster, Resources
from slurm.status_commands import cancel
from slurm.submission.handover import Outcome
from slurm.sweep_folder.ledger import Ledger
from slurm.sweep_folder.local_lock import local_start_lock


def test_one_run_a_gpu_and_never_two(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five jobs on three devices, one of which is named twice; variables of an outer Slurm job are not passed on."""
    begun = tmp_path / "begun"  # where the first three wait for each other, so that a busy machine does not matter
    begun.mkdir()
    monkeypatch.setenv("MEETING", str(begun))
    monkeypatch.setenv("MEETING_OF", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    graph = graph_of(tmp_path / "sweep", 5)
    outcome = launched(graph, "record", gpus=chosen_devices("2,GPU-5f/1,2", HERE_CLUSTER, 1))
    assert len(outcome.done) == 5
    jobs = seen(graph)
    assert {job["CUDA_VISIBLE_DEVICES"] for job in jobs} == {"2", "GPU-5f/1"}
    assert {job["SLURM_JOB_ID"] for job in jobs} == {None}
    for device, most in (("2", 2), ("GPU-5f/1", 1)):
        moments = [(job["begun"], 1) for job in jobs if job["CUDA_VISIBLE_DEVICES"] == device]
        moments += [(job["ended"], -1) for job in jobs if job["CUDA_VISIBLE_DEVICES"] == device]
        busy, highest = 0, 0
        for _, change in sorted(moments):
            busy += change
            highest = max(highest, busy)
        assert 1 <= highest <= most
    overlapping = [job for job in jobs if any(job["begun"] < other["ended"] and other["begun"] < job["ended"]
                                              for other in jobs if other is not job)]  # fmt: skip
    assert len(overlapping) >= 3
    assert launched(graph, "record").skipped == list(graph.jobs)


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_are_no_ranks_of_what_the_launcher_is_one_of(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Within torchrun or Kubernetes they would wait for the other ranks, and use the agent's store."""
    above = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "pod-0"}
    above |= {"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in above.items():
        monkeypatch.setenv(name, value)
    graph = graph_of(tmp_path / "sweep", 1)
    cluster = Cluster("local", executor="local", resources=Resources(processes=processes))
    assert launched(graph, "record", cluster).failed == {}
    for rank in range(processes):
        (job,) = seen(graph, rank)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        assert {name: job[name] for name in above if job[name] is not None} == (
            own | {"MASTER_PORT": job["MASTER_PORT"]} if processes > 1 else {}
        )
        assert processes == 1 or int(job["MASTER_PORT"]) < 32768  # below the ports that Linux gives to connections


@pytest.mark.parametrize("gpus", [(), ("4", "7")])
def test_several_processes_are_ranks_with_a_gpu_each(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    graph = graph_of(tmp_path / "sweep", 1)
    two = Cluster("local", executor="local", resources=Resources(processes=2))
    assert len(launched(graph, "record", two, gpus=gpus).done) == 1
    ranks = [seen(graph, rank)[0] for rank in (0, 1)]
    assert [(r["RANK"], r["LOCAL_RANK"], r["WORLD_SIZE"], r["MASTER_ADDR"]) for r in ranks] == [
        ("0", "0", "2", "127.0.0.1"),
        ("1", "1", "2", "127.0.0.1"),
    ]
    assert {r["CUDA_VISIBLE_DEVICES"] for r in ranks} == {",".join(gpus) or "9"}
    with pytest.raises(Exception, match="has 2 processes, one for each GPU, and --gpus names 1"):
        launched(graph, "record", two, gpus=("4",))


def test_a_rank_that_was_killed_is_named(programs: Path, tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "sweep", 1)
    two = Cluster("local", executor="local", resources=Resources(processes=2))
    outcome = launched(graph, "lose_one", two)
    assert list(outcome.failed.values()) == ["rank 1 was killed by SIGKILL"]
    status = graph.jobs[0].folder.status("pretrain")
    assert status is not None
    assert (status.state, status.error) == ("failed", "rank 1 was killed by SIGKILL")


def test_a_job_whose_end_cannot_be_written_down_ends_no_other(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the launcher used to end, and stopped all other jobs with it."""
    write = RunFolder.set_status

    def refuse(folder: RunFolder, state: str, **changes: object) -> None:
        if state == "failed":
            raise UserError("cannot write status.json: the disk is full")
        write(folder, state, **changes)

    monkeypatch.setattr(RunFolder, "set_status", refuse)
    two = Cluster("local", executor="local", resources=Resources(processes=2))
    outcome = launched(graph_of(tmp_path / "sweep", 2), "lose_one", two)
    assert list(outcome.failed.values()) == ["rank 1 was killed by SIGKILL"] * 2


def test_what_a_job_runs_comes_from_a_text_file_of_ours(programs: Path, tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "sweep", 1)
    launched(graph, "record")
    (entry,) = [entry for entry in Ledger(tmp_path / "sweep").submissions() if entry.job]
    folder = tmp_path / "sweep" / "logs" / entry.submission
    assert sorted(path.suffix for path in folder.iterdir()) == [".err", ".json", ".out"]
    assert oct(folder.stat().st_mode)[-3:] == "700"
    call = read_call(folder, 0)
    assert isinstance(call, Call)
    assert (call.task, call.program) == ("pretrain", "job_programs:record")
    # A pickle in its place is refused, and not loaded.
    (folder / "calls.json").write_bytes(pickle.dumps(os.getpid))
    words = [sys.executable, "-m", "slurm.start", str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"Error: {folder / 'calls.json'} cannot be read (UnicodeDecodeError" in ended.stderr


@pytest.mark.end_to_end
def test_a_launcher_that_is_asked_to_stop_ends_its_jobs_and_waits(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(tmp_path / "sweep", 3)
    job = graph.jobs[0]
    states: dict[str, int] = {}

    def ask() -> None:
        wait_until(lambda: (job.folder.status("pretrain") or Status("")).state == "running", "the job begins")
        states.update(Counter(state for state, _ in told(graph)))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(SystemExit) as end:
        launched(graph, "last")
    thread.join()
    assert end.value.code == 143
    assert states == {"running": 1, "queued": 2}
    status = job.folder.status("pretrain")
    assert status is not None
    assert status.state == "interrupted"
    # Nobody tends the others any more; the next launch starts them.
    assert Counter(state for state, _ in told(graph)) == {"planned": 2, "interrupted": 1}
    assert len(launched(graph, "record").done) == 3


def start_elsewhere(place: Path, device: str, function: str) -> "subprocess.Popen[bytes]":
    """Another launcher of the same sweep, with one GPU."""
    lines = [
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r})",
        "from pathlib import Path; import local_samples as t",
        f"t.launched(t.graph_of(Path({str(place)!r}), 3), {function!r}, gpus=({device!r},))",
    ]
    code = "; ".join(lines)
    return subprocess.Popen([sys.executable, "-c", code])


def test_gpus_of_jobs_that_outlived_their_launcher_are_not_handed_out(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sweep"
    graph = graph_of(place, 3)
    first = graph.jobs[0]
    killed = start_elsewhere(place, "0", "last")
    wait_until(lambda: (first.folder.status("pretrain") or Status("")).state == "running", "the job begins", 120)
    killed.kill()
    killed.wait()
    (orphan,) = [entry for entry in Ledger(place).submissions() if entry.job]
    assert orphan.devices == ("0",)
    try:
        here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(2, ("0", "1")), Console(quiet=True))
        assert [(job.run.seed, gpus) for job, gpus in here.startable()] == [(1, ("1",))]
        here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(2), Console(quiet=True))
        assert len(here.startable()) == 1
        here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(2, ("2", "3")), Console(quiet=True))
        assert [gpus for _, gpus in here.startable()] == [("2",), ("3",)]
    finally:
        os.killpg(int(orphan.job), signal.SIGKILL)


def test_what_two_launchers_find_missing_is_started_once(programs: Path, tmp_path: Path) -> None:
    """The second launcher looks while the first is between its look and its start."""
    graph = graph_of(tmp_path / "sweep", 1)
    graph.sweep_folder.mkdir()
    first, second = (
        LocalLaunch(graph, (), HERE_CLUSTER, replace(PROGRAM, task="job_programs:last"), Places(1), Console(quiet=True))
        for _ in range(2)
    )
    found: list[int] = []

    def look() -> None:
        with local_start_lock(second.agenda.graph.sweep_folder):
            found.append(len(second.startable()))

    thread = threading.Thread(target=look)
    with local_start_lock(first.agenda.graph.sweep_folder):
        ((job, gpus),) = first.startable()
        thread.start()
        time.sleep(0.3)
        assert found == []
        process = first.starter.start(job, gpus)
    thread.join()
    process.kill()
    assert found == [0]


def test_what_is_cancelled_between_the_look_and_the_start_is_ended_or_not_begun(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelling used to find nothing to cancel in that moment, and the job ran on."""
    graph = graph_of(tmp_path / "sweep", 2)
    graph.sweep_folder.mkdir()
    program = replace(PROGRAM, task="job_programs:last")
    here = LocalLaunch(graph, (), HERE_CLUSTER, program, Places(1), Console(quiet=True))
    here.queue_up()
    thread = threading.Thread(target=lambda: cancel(str(graph.sweep_folder)))
    with local_start_lock(graph.sweep_folder):
        ((job, gpus),) = here.startable()
        thread.start()
        time.sleep(0.3)
        process = here.starter.start(job, gpus)
    thread.join()
    wait_until(process.ended, "the job ends")
    assert f"cancelled 1 job: {process.id}" in capsys.readouterr().out
    here.starter.running.clear()
    here.agenda.waiting.remove(job)
    assert here.startable() == []
    assert here.agenda.outcome.failed == {graph.key(graph.jobs[1]): "cancelled"}


@pytest.mark.parametrize("found_by", ["a launch", "cancel"])
def test_a_job_whose_launcher_was_killed_before_it_wrote_its_id_down_is_found(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], found_by: str
) -> None:
    graph = graph_of(tmp_path / "sweep", 1)
    graph.sweep_folder.mkdir()
    program = replace(PROGRAM, task="job_programs:last")
    here = LocalLaunch(graph, (), HERE_CLUSTER, program, Places(1), Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "submitted", lambda *_: None)
        process = here.starter.start(graph.jobs[0], ("3",))
    try:
        reader = subprocess.Popen(["tail", "-f", process.folder / "calls.json"], process_group=0)
        if found_by == "cancel":
            cancel(str(graph.sweep_folder))
            assert f"cancelled 1 job: {process.id}" in capsys.readouterr().out
            wait_until(process.ended, "the job ends")
        else:
            LocalLaunch(graph, (), HERE_CLUSTER, program, Places(1), Console(quiet=True)).queue_up()
        (entry,) = Ledger(graph.sweep_folder).submissions()
        assert (entry.job, entry.devices) == (process.id, ("3",))
        assert reader.poll() is None
    finally:
        process.kill()
        reader.kill()
        reader.wait()


def test_jobs_of_one_name_are_told_apart(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two settings of one method are two runs; both run at the same time, and both fail."""
    place = tmp_path / "sweep"
    runs = [tiny(changes={"optimization.epochs": epochs}) for epochs in (1, 2)]
    graph = make_graph(place, [Job(run, RunFolder.of(run, place), "pretrain") for run in runs], ())
    outcome = launched(graph, "no_such_function", parallel=2)
    assert set(outcome.failed) == {graph.key(job) for job in graph.jobs}


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("sweep", "demo", "--local", "--out", str(tmp_path / "file" / "x"))
    assert (
        refused(*words)
        == f"cannot write to {tmp_path / 'file' / 'x'}: {tmp_path / 'file'} is not a folder; mend: choose another --out"
    )


def test_cancelling_ends_what_runs_and_takes_out_what_waits(programs: Path, tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "sweep", 3)
    job = graph.jobs[0]

    def take_back() -> None:
        wait_until(lambda: (job.folder.status("pretrain") or Status("")).state == "running", "the job begins")
        cancel(str(graph.sweep_folder))

    thread = threading.Thread(target=take_back)
    thread.start()
    outcome = launched(graph, "last")
    thread.join()
    assert [reason.partition(";")[0] for reason in outcome.failed.values()] == ["interrupted", "cancelled", "cancelled"]
    assert set(told(graph)) == {("cancelled", "by salmask cancel")}


def test_a_second_signal_or_a_hanging_job_does_not_keep_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.local.processes.KILL_SECONDS", 0.5)
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    process.stdout.readline()
    job = LocalJob(tmp_path, [process])
    job.stop()
    assert not job.ended()
    wait_until(job.ended, "the job is killed")
    assert process.returncode == -signal.SIGKILL
    assert job.failure == ""  # it was told to end


def test_words_that_are_no_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("sweep", "demo", "--gpus", "0,,1") == (
        "--gpus 0,,1: devices are numbers or UUIDs with commas between; mend: --gpus 0,1"
    )
    for word in ("all", "٣"):
        assert "devices are numbers or UUIDs" in refused("sweep", "demo", "--plan", "--gpus", word)
    assert "--gpus and --parallel exclude" in refused("sweep", "demo", "--gpus", "0,1", "--parallel", "2")
    assert "'debug' has none; mend: --local" in refused("sweep", "demo", "--cluster", "debug", "--gpus", "0")


def test_what_other_processes_use_is_not_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than idle cores would spin while they wait for each other."""
    monkeypatch.setattr("slurm.local.launch.usable_cores", lambda: 16)
    monkeypatch.setattr("slurm.local.launch.idle_cores", lambda: 5)
    monkeypatch.setattr(LocalLaunch, "run", lambda here: Outcome(skipped=list(here.agenda.graph.jobs)))
    two = graph_of(tmp_path, 2)
    for given, threads, said in (
        (None, "2", "11 of 16 cores are busy: 2 threads per process instead of 8\n"),
        ("3", "3", ""),
    ):
        monkeypatch.delenv("OMP_NUM_THREADS") if given is None else monkeypatch.setenv("OMP_NUM_THREADS", given)
        console = Console(width=80, record=True)
        launched(two, "record", parallel=2, console=console)
        assert os.environ["OMP_NUM_THREADS"] == threads
        assert console.export_text() == said


def test_jobs_share_the_cores_out_among_as_many_as_can_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not among as many as are allowed: if two of eight places are used, each job has half of the cores."""
    monkeypatch.setattr("slurm.local.launch.usable_cores", lambda: 16)
    monkeypatch.setattr("slurm.local.launch.idle_cores", lambda: 16)
    monkeypatch.setattr(LocalLaunch, "run", lambda here: Outcome(skipped=list(here.agenda.graph.jobs)))

    def threads(graph: Graph, cluster: Cluster = HERE_CLUSTER, **options: Any) -> str:
        monkeypatch.delenv("OMP_NUM_THREADS")
        launched(graph, "record", cluster, **options)
        return os.environ["OMP_NUM_THREADS"]

    two = graph_of(tmp_path, 2)
    assert [threads(two, parallel=number) for number in (1, 2, 8)] == ["16", "8", "8"]
    assert threads(two, Cluster("debug", executor="debug"), parallel=8) == "16"  # one after the other
    assert threads(two, gpus=("0", "1", "2", "3")) == "8"
    of_two_ranks = Cluster("local", executor="local", resources=Resources(processes=2))
    assert threads(two, of_two_ranks, gpus=("0", "1", "2", "3", "4", "5", "6", "7")) == "4"
    assert [threads(two, of_two_ranks, parallel=number) for number in (1, 8)] == ["8", "4"]
    assert threads(two, Cluster("debug", executor="debug", resources=Resources(processes=2))) == "16"
    # A pretraining first, and then two tasks at a time.
    tasks = [Job(job.run, job.folder, task) for job in two.jobs[:1] for task in ("pretrain", "linear", "knn")]
    assert threads(make_graph(tmp_path, tasks, ()), parallel=8) == "8"
    for job in two.jobs[:1]:
        job.folder.path.mkdir(parents=True)
        job.folder.backbone.write_text("x")
    assert threads(two, parallel=8) == "16"
    two.jobs[1].folder.path.mkdir(parents=True)
    two.jobs[1].folder.backbone.write_text("x")
    assert threads(two, parallel=8) == "16"  # nothing is missing
