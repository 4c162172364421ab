"""A process that computes keeps the memory of its last step."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, statistics, torch
from repro.processes.distributed import initialise
def step():
    return [torch.ones(2**23) for _ in range(2)]  # 32 MiB each
def median_of_faults():
    for _ in range(10):  # until the heap has room for both beside what else it holds
        step()
    faults = []
    for _ in range(9):
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
    return statistics.median(faults)  # the heap may grow once more even then
for initialises, set_by_a_person in ((True, {}), (False, {}), (True, {"GLIBC_TUNABLES": "glibc.malloc.check=0"})):
    if os.fork() == 0:  # a process of its own for each, and one import of torch for all
        os.environ.update(set_by_a_person)
        if initialises:
            initialise("cpu")
        print(median_of_faults(), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.end_to_end
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this switch")
def test_steps_fault_the_same_pages_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True).stdout.split()
    kept, freed, theirs = map(int, told)
    assert kept < 20 < freed  # 64 MiB are 32 huge pages, or 16,384 small ones
    assert theirs > 20  # what a person set holds, here glibc's own way
