"""A process that computes keeps the memory of its last step."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, sys, torch
from repro.distributed import initialise
if sys.argv[1] == "kept":
    initialise("cpu")
def step():
    return [torch.ones(2**23) for _ in range(2)]  # 32 MiB each
for _ in range(10):  # until the heap has room for both beside what else it holds
    step()
faults = []
for _ in range(9):
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
print(statistics.median(faults))  # the heap may grow once more even then
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this switch")
def test_steps_fault_the_same_pages_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", PROGRAM]
    faults = {how: int(subprocess.run([*command, how], capture_output=True, check=True).stdout) for how in ("kept", "")}
    assert faults["kept"] < 20 < faults[""]  # 64 MiB are 32 huge pages, or 16,384 small ones
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")  # what a person set holds, here glibc's own way
    theirs = int(subprocess.run([*command, "kept"], capture_output=True, check=True).stdout)
    assert theirs > 20
