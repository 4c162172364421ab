"""Resource usage of a task's processes, as they record it themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from usage_samples import used, written
from waiting import wait_until

from repro.runs.resource_usage import USAGE, Usage, memories_of, total, usage_of, words
from repro.runs.usage_meter import UsageMeter, busy_share, usage_recorded

MB = 2**20
HUNGRY = """
import sys, time
block = bytearray(300 * 2**20); block[::4096] = b"x" * len(block[::4096])
begin = time.process_time()
while time.process_time() - begin < 0.35: pass
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = """
import json, subprocess, sys, time
from dataclasses import asdict
from repro.runs.usage_meter import UsageMeter
meter = UsageMeter()
looks = [meter.look()]
with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    looks.append(meter.look())
    child.communicate()
looks.append(meter.look())
print(json.dumps([asdict(look) for look in looks]))
"""
KILLED = """
import sys, time
from pathlib import Path
from repro.runs import usage_meter as usage
usage.FIRST_SECONDS = 0.05
with usage.usage_recorded(Path(sys.argv[1]), "linear", usage.UsageMeter()):
    time.sleep(60)
"""


def test_children_that_live_count_with_their_memory_and_cpu() -> None:
    # In a new process: in this one, the kernel's maximum may be from an earlier test.
    words_of_it = [sys.executable, "-c", PARENT, HUNGRY]
    shown = subprocess.run(words_of_it, capture_output=True, check=True, text=True, timeout=120).stdout
    before, living, ended = (Usage(**look) for look in json.loads(shown))
    assert 250 * MB < living.memory - before.memory < 450 * MB
    assert ended.cpu_seconds >= living.cpu_seconds > before.cpu_seconds + 0.3  # it is not lost when the child ends
    assert ended.memory >= living.memory


def test_an_attempt_that_is_killed_has_left_its_usage_and_the_next_is_added(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    path = tmp_path / USAGE / "linear.0.json"
    wait_until(
        lambda: path.exists() and json.loads(path.read_text(encoding="utf-8"))[0]["seconds"] >= 0.1,
        "an entry of the child",
    )
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    killed = usage_of(tmp_path, "linear")
    assert killed is not None
    assert (killed.attempts, killed.gpus) == (1, 0)
    assert killed.memory > 5 * MB
    with usage_recorded(tmp_path, "linear", UsageMeter()):
        time.sleep(0.02)
    both = usage_of(tmp_path, "linear")
    assert both is not None
    assert both.attempts == 2
    assert both.seconds > killed.seconds
    assert usage_of(tmp_path, "linear@caltech101") is None
    assert memories_of(tmp_path) == {"linear": both.memory}


def test_attempts_and_ranks_add_up(tmp_path: Path) -> None:
    first = [used(seconds=30.0, memory=300), used(seconds=10.0, gpu_memory=7, gpu_busy=0.5)]
    second = [used(seconds=30.0, memory=200), used(seconds=9.0, gpu_memory=9, gpu_busy=0.9)]
    elsewhere = [used(seconds=10.0, memory=400, host="n2", gpu_memory=8)]
    written(tmp_path, "semi-1", first, second, elsewhere)
    written(tmp_path, "semi-10", [used(seconds=1.0)])
    usage = usage_of(tmp_path, "semi-1")
    assert usage is not None
    assert (usage.seconds, usage.longest_seconds, usage.attempts) == (40.0, 30.0, 2)
    assert usage.cpu_seconds == 5 * 5.0
    assert usage.memory == 500  # 300 + 200 on n1; 400 on n2
    assert (usage.gpus, usage.gpu_memory, usage.cores) == (3, 9, 8)
    assert usage.gpu_busy == pytest.approx((0.5 * 10 + 0.9 * 9) / 19)
    here = "10 s, 1.5 GiB of memory, 0.5 of 4 cores"
    assert words(total([[used(memory=3 * 2**29)]])) == here
    for busy, told in ((None, ""), (0.825, ", 82 % busy")):
        on_gpu = used(memory=3 * 2**29, gpu_memory=5 * 2**29, gpu_busy=busy)
        assert words(total([[on_gpu]])) == f"{here}, 2.5 GiB of GPU memory{told}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda _: "{}",
        lambda _: "[1, null]",
        lambda text: text.replace("5.0", '"x"'),
        lambda text: text.replace("100", "-1"),
        lambda text: text.replace("100", "NaN"),
        lambda text: text.replace("memory", "other"),
    ],
)
def test_a_file_that_cannot_be_read_is_nobodys_fault(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    written(tmp_path, "knn", [used()])
    path = tmp_path / USAGE / "knn.0.json"
    assert usage_of(tmp_path, "knn") is not None
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert usage_of(tmp_path, "knn") is None
    with usage_recorded(tmp_path, "knn", UsageMeter()):
        pass
    assert usage_of(tmp_path, "knn") is not None


def test_no_folder_is_made_where_one_was_moved_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with usage_recorded(folder, "knn", UsageMeter()):
        folder.rename(tmp_path / "moved")
    assert not folder.exists()


def test_of_several_processes_one_tells_what_it_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "salmask")
    for rank in (1, 0):
        with usage_recorded(tmp_path, "knn", UsageMeter(), rank, 2):
            pass
    (line,) = caplog.messages
    assert line.startswith("knn used ")
    assert line.endswith("cores, the first of 2 processes")


def test_the_drivers_word_on_a_gpu_is_found_by_its_name() -> None:
    output = "GPU-aa-1, 97\nGPU-bb-2, [N/A]\n"
    assert busy_share(output, "aa-1") == 0.97
    assert busy_share(output, "GPU-bb-2") is None
    assert busy_share(output, "cc-3") is None


class Cuda:
    """torch.cuda in a thread of a rank that computes on the third of four GPUs; the thread's own GPU is the first."""

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 4

    def max_memory_reserved(self, device: int) -> int:
        return 9 * 2**30 if device == 2 else 0

    def get_device_properties(self, device: int) -> object:
        return SimpleNamespace(uuid=f"uuid-{device}")


def test_a_rank_tells_of_the_gpu_that_it_computes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho GPU-uuid-0, 3\necho GPU-uuid-2, 88\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Cuda()))
    usage = UsageMeter().look()
    assert (usage.gpu_memory, usage.gpu_busy) == (9 * 2**30, 0.88)
    program.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")  # no driver
    usage = UsageMeter().look()
    assert (usage.gpu_memory, usage.gpu_busy) == (9 * 2**30, None)


def test_the_most_memory_of_a_gpu_is_that_of_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own maximum is reset at each line of a training's log."""
    reserved = [(1, 7), (1, 5), (0, 0)]
    monkeypatch.setattr("repro.runs.usage_meter._own_gpu", lambda: reserved.pop(0))
    meter = UsageMeter()
    assert [meter.look(ask_driver=False).gpu_memory for _ in range(3)] == [7, 7, 7]


@pytest.mark.slow
def test_a_driver_that_hangs_does_not_keep_a_task_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho asked >> $0.log\nexec sleep 4\n", encoding="utf-8")
    program.chmod(0o755)
    log = tmp_path / "nvidia-smi.log"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Cuda()))
    monkeypatch.setattr("repro.runs.usage_meter.FIRST_SECONDS", 0.05)
    with usage_recorded(tmp_path, "linear", UsageMeter()):
        wait_until(log.exists, "a question to the driver", every=0.01)
        asked = time.monotonic()
    assert time.monotonic() - asked < 2.5
    used_by_then = (tmp_path / USAGE / "linear.0.json").read_text(encoding="utf-8")
    wait_until(lambda: time.monotonic() - asked > 5, "the answer")
    assert (tmp_path / USAGE / "linear.0.json").read_text(encoding="utf-8") == used_by_then  # not the late look
    assert log.read_text(encoding="utf-8") == "asked\n"
