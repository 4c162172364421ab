"""What is wrong with a node of a cluster, as a job on it sees it."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from repro.data.catalogue import DATASETS
from repro.distributed import initialise, rank, world_size
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.machine import FREE_GIB, check_data, check_devices, check_packages
from repro.errors import UserError, one_line

WRITTEN_MIB = 256
SLOW_MIB_PER_SECOND = 30.0
"""A checkpoint of a ResNet-50 with queue and momenta is about 400 MiB, written every few hundred steps."""
REDUCED_MIB = 64
SHARED_MEMORY_GIB = 1.0
"""Through which a loader's processes hand over batches: a few of 128 images are below this."""


def examine_node(place: Path, *, gpus: int, cpus: int) -> list[Diagnosis]:
    """Check from within a job what it needs from its node; each of its processes calls this.

    Args:
        place: where sweeps go; made if it is not there.
        gpus: that the job asked for on each node.
        cpus: that it asked for each process.
    """
    first = int(os.environ.get("SLURM_PROCID", "0")) == 0
    findings = [*check_packages(), Diagnosis("node", "ok", f"{socket.gethostname()}, {sys.executable}")]
    findings += [*_gpus_of_job(gpus), *_cores_of_job(cpus), *_processes(), *_scheduler(), *_shared_memory()]
    if first:
        findings += [*_writing(place), *(check_data(name, None, needed=False) for name in DATASETS)]
    return findings


def _gpus_of_job(asked: int) -> Iterator[Diagnosis]:
    driver = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    built = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        yield Diagnosis("driver", "ok", f"{driver or 'unknown'}; {built}")
    elif asked and driver:
        mend = "load a newer driver's node by the profile's constraint, or install a torch for that driver"
        yield Diagnosis("driver", "wrong", f"{driver}, which {built} cannot use", mend)
    elif asked:
        mend = "the profile's gpus, gres or partition: the node has no GPU, or does not show it"
        yield Diagnosis("driver", "wrong", f"no GPU, although {asked} were asked for", mend)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked and torch.cuda.is_available() and torch.cuda.device_count() > asked:
        mend = "nothing, where nodes are yours alone; else the profile's gres: jobs see each other's GPUs"
        yield Diagnosis("GPUs", "note", f"{torch.cuda.device_count()} are visible ({visible}), {asked} asked for", mend)
    yield from check_devices()


def _cores_of_job(asked: int) -> Iterator[Diagnosis]:
    cores = len(os.sched_getaffinity(0))
    if cores < asked:
        mend = "the profile's cpus, or ask the administrators why the job is bound to fewer"
        yield Diagnosis("cores", "wrong", f"{cores} of {asked} that each process asked for", mend)
    else:
        yield Diagnosis("cores", "ok", f"{cores} for each process")


def _processes() -> Iterator[Diagnosis]:
    """Whether the processes of the job find each other, and how fast they talk: an all-reduce."""
    try:
        device = initialise("auto")
    except (RuntimeError, UserError, ValueError) as error:
        mend = "the profile's setup: NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, the interface between the nodes"
        yield Diagnosis("processes", "wrong", f"cannot join each other: {one_line(error)[:200]}", mend)
        return
    nccl = f", NCCL {'.'.join(map(str, _nccl_version()))}" if device.type == "cuda" else ""
    if world_size() == 1:
        yield Diagnosis("processes", "ok", f"one, on {device.type}{nccl}")
        return
    ranks = torch.full((REDUCED_MIB * 2**18,), float(rank() + 1), device=device)
    dist.all_reduce(ranks)  # the first one also connects
    expected = world_size() * (world_size() + 1) / 2
    correct = bool((ranks == expected).all())
    started = time.perf_counter()
    dist.all_reduce(ranks)
    if device.type == "cuda":
        torch.cuda.synchronize()
    speed = REDUCED_MIB / 2**10 / (time.perf_counter() - started)
    found = f"{world_size()} on {device.type}{nccl}; all-reduce of {REDUCED_MIB} MiB at {speed:.2f} GiB/s"
    mend = "" if correct else "NCCL_P2P_DISABLE=1 in the profile's setup, and tell the administrators"
    yield Diagnosis("processes", "ok" if correct else "wrong", found if correct else f"{found}, with a wrong sum", mend)
    dist.destroy_process_group()


def _nccl_version() -> tuple[int, ...]:
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return version


def _scheduler() -> Iterator[Diagnosis]:
    if shutil.which("scontrol"):
        yield Diagnosis("requeue", "ok", "jobs can put themselves back in the queue (scontrol)")
    else:
        mend = "put Slurm's commands on the PATH in the profile's setup"
        yield Diagnosis("requeue", "wrong", "no scontrol: a job cannot put itself back in the queue", mend)


def _shared_memory() -> Iterator[Diagnosis]:
    place = Path("/dev/shm")
    if place.is_dir():
        free = shutil.disk_usage(place).free / 2**30
        mend = (
            "" if free >= SHARED_MEMORY_GIB else "machine.workers=0, or a larger /dev/shm (of a container: --shm-size)"
        )
        yield Diagnosis("shared memory", "note" if mend else "ok", f"{free:.1f} GiB free in {place}", mend)


def _writing(place: Path) -> Iterator[Diagnosis]:
    mend = "the profile's scratch: a folder that the nodes share and that you may write to"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            block = os.urandom(2**20)
            started = time.perf_counter()
            for _ in range(WRITTEN_MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN_MIB / (time.perf_counter() - started)
            skew = abs(Path(file.name).stat().st_mtime - time.time())
            locks = _locks(file.fileno())
    except OSError as error:
        yield Diagnosis("writing", "wrong", f"{place}: {error.strerror}", mend)
        return
    free = shutil.disk_usage(place).free / 2**30
    verdict = "wrong" if free < FREE_GIB else "note" if speed < SLOW_MIB_PER_SECOND else "ok"
    yield Diagnosis(
        "writing", verdict, f"{speed:.0f} MiB/s to {place}, {free:.0f} GiB free", "" if verdict == "ok" else mend
    )
    if not locks:
        yield Diagnosis("locks", "note", f"none on {place}: only heartbeats keep two jobs apart", mend)
    if skew > 30:
        yield Diagnosis("clock", "wrong", f"{skew:.0f} s from the file server's", "tell the administrators (NTP)")


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _first_line(*words: str) -> str:
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.strip().split("\n", 1)[0]
