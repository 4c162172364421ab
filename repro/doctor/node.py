"""What is wrong with a node of a cluster, as a job on it sees it."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from repro.doctor.between_nodes import LOCKS_BETWEEN_NODES, check_between_nodes, node_name
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.machine import FREE_GIB, check_devices, check_needs
from repro.doctor.needs import Needs
from repro.errors import UserError, one_line
from repro.processes.cores import usable_cores
from repro.processes.distributed import gather_objects, initialise, rank, world_size
from repro.runs.lock import CLOCKS_SECONDS

WRITTEN_MIB = 256
"""MiB written to measure a folder's speed: about the size of a checkpoint."""
SLOW_MIB_PER_SECOND = 30.0
"""Slower is worth a note: a ResNet-50's checkpoint, about 400 MiB, is written every few hundred steps."""
REDUCED_MIB = 64
"""MiB all-reduced to measure the connection between processes; a ResNet-50's gradients are about 90 MiB."""
SLOW_REDUCE_GIB = 0.5
"""GiB/s below which GPUs wait for each other: a ResNet-50's gradients then take a fifth of a second of each step."""
MEETING_SECONDS = 90.0
"""How long the processes wait for each other; the job has five minutes."""
SHARED_MEMORY_GIB = 1.0
"""Less is worth a note: a loader's workers hand over batches through it, and a few of 128 images fit into this."""


def examine_node(place: Path, *, gpus: int, cpus: int, needs: Needs) -> list[Diagnosis]:
    """Checks, from within a job, what the job needs from its node; each process of the job calls this.

    Args:
        place: Folder of the sweeps; made if it is not there.
        gpus: How many GPUs the job asked for on each node.
        cpus: How many cores the job asked for per process.
        needs: Weights and data sets that must be there.

    Returns:
        What this process found, then every finding on other nodes than rank 0's that is not `ok`. Only the first
        process of a node checks what is the same for all of them: the folder, weights and data.
    """
    findings = [Diagnosis("node", "ok", f"{node_name()}, {sys.executable}")]
    findings += [*_gpus_of_job(gpus), _cores_of_job(cpus), _requeue(), *_shared_memory()]
    if os.environ.get("SLURM_LOCALID", "0") == "0":
        findings += [*_writing(place), *check_needs(needs)]
    return [*findings, *_together(place, findings)]


def _gpus_of_job(requested: int) -> Iterator[Diagnosis]:
    """Yields whether torch can use the node's driver, and whether the job sees the GPUs that it asked for."""
    driver = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    built = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        yield Diagnosis("driver", "ok", f"{driver or 'unknown'}; {built}")
    elif requested and driver:
        mend = "nodes with a newer driver, by the profile's constraint; or a torch that is built for this driver"
        yield Diagnosis("driver", "wrong", f"{driver}, which {built} cannot use", mend)
    elif requested:
        mend = "the profile's gpus, gres or partition: the node has no GPU, or does not show it"
        yield Diagnosis("driver", "wrong", f"no GPU, although the job asked for {requested}", mend)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if requested and torch.cuda.is_available() and count > requested:
        mend = "nothing, where nodes are yours alone; else the profile's gres: jobs see each other's GPUs"
        yield Diagnosis("GPUs", "note", f"{count} are visible ({visible}), {requested} asked for", mend)
    elif torch.cuda.is_available() and count < requested:
        mend = "the profile's gpus or gres, or the node's setting of CUDA_VISIBLE_DEVICES"
        yield Diagnosis("GPUs", "wrong", f"{count} of {requested} that the job asked for are visible ({visible})", mend)
    yield from check_devices()


def _cores_of_job(requested: int) -> Diagnosis:
    """Returns whether this process may run on as many cores as it asked for, whatever the node has."""
    cores = usable_cores()
    if cores < requested:
        mend = "the profile's cpus, or ask the administrators why the job is bound to fewer"
        return Diagnosis("cores", "wrong", f"{cores} of {requested} that each process asked for", mend)
    return Diagnosis("cores", "ok", f"{cores} for each process")


def _together(place: Path, findings: Sequence[Diagnosis]) -> Iterator[Diagnosis]:
    """Yields what the processes check together: whether they can join a process group, and the checks between nodes.

    Args:
        place: Folder of the sweeps.
        findings: What this process found by itself.
    """
    try:
        device = initialise("auto", patience=MEETING_SECONDS)
    except UserError as error:
        yield Diagnosis("processes", "wrong", f"cannot join each other: {error.what}", error.mend)
        return
    except (RuntimeError, ValueError) as error:
        mend = "the profile's setup: NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, the interface between the nodes"
        yield Diagnosis("processes", "wrong", f"cannot join each other: {one_line(error)[:200]}", mend)
        return
    if world_size() == 1:
        yield Diagnosis("processes", "ok", f"one, on {device.type}{_nccl(device)}")
        return
    yield _all_reduce(device)
    yield from check_between_nodes(place)
    yield from _of_other_nodes(findings)
    dist.destroy_process_group()


def _all_reduce(device: torch.device) -> Diagnosis:
    """Returns how fast an all-reduce of the processes is, and whether its sum is right."""
    numbers = torch.full((REDUCED_MIB * 2**18,), float(rank() + 1), device=device)  # 4 bytes each
    dist.all_reduce(numbers)  # the first one also connects, so that it is not timed
    expected = world_size() * (world_size() + 1) / 2  # 1 + 2 + ... + world_size
    # Where GPUs cannot really read each other's memory, sums may be wrong without any error.
    is_correct = bool((numbers == expected).all())
    started = time.perf_counter()
    dist.all_reduce(numbers)
    if device.type == "cuda":
        torch.cuda.synchronize()
    speed = REDUCED_MIB / 2**10 / (time.perf_counter() - started)
    summary = f"{world_size()} on {device.type}{_nccl(device)}; all-reduce of {REDUCED_MIB} MiB at {speed:.2f} GiB/s"
    if not is_correct:
        mend = "NCCL_P2P_DISABLE=1 in the profile's setup, and tell the administrators"
        return Diagnosis("processes", "wrong", f"{summary}, with a wrong sum", mend)
    if speed < SLOW_REDUCE_GIB and device.type == "cuda":
        mend = "the profile's setup: NCCL_SOCKET_IFNAME, the fast interface; NCCL_DEBUG=INFO tells what it uses"
        return Diagnosis("processes", "note", f"{summary}, which is slow", mend)
    return Diagnosis("processes", "ok", summary)


def _of_other_nodes(findings: Sequence[Diagnosis]) -> Iterator[Diagnosis]:
    """Yields every finding on other nodes than rank 0's that is not `ok`, as the first process of each node has it."""
    told = gather_objects((node_name(), list(findings)))
    seen = {told[0][0]}
    for node, rows in told:
        if node not in seen:
            seen.add(node)
            yield from (replace(row, check=f"{row.check} ({node})") for row in rows if row.verdict != "ok")


def _nccl(device: torch.device) -> str:
    return f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}" if device.type == "cuda" else ""


def _requeue() -> Diagnosis:
    """Returns whether the node has the command by which a job puts itself back in the queue."""
    if shutil.which("scontrol"):
        return Diagnosis("requeue", "ok", "jobs can put themselves back in the queue (scontrol)")
    mend = "put Slurm's commands on the PATH in the profile's setup"
    return Diagnosis("requeue", "wrong", "no scontrol: a job cannot put itself back in the queue", mend)


def _shared_memory() -> Iterator[Diagnosis]:
    """Yields whether there is enough shared memory; a loader's workers die of too little."""
    folder = Path("/dev/shm")
    if folder.is_dir():
        free = shutil.disk_usage(folder).free / 2**30
        is_scarce = free < SHARED_MEMORY_GIB
        mend = "machine.workers=0, or a larger /dev/shm (of a container: --shm-size)" if is_scarce else ""
        yield Diagnosis("shared memory", "note" if is_scarce else "ok", f"{free:.1f} GiB free in {folder}", mend)


def _writing(folder: Path) -> Iterator[Diagnosis]:
    """Yields how fast and how full a folder is, and whether its locks and its clock can be relied upon."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            block = os.urandom(2**20)  # a file system that compresses would make little of zeros
            started = time.perf_counter()
            for _ in range(WRITTEN_MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN_MIB / (time.perf_counter() - started)
            os.utime(file.fileno())  # dated now, by the file server's clock: the last write may be seconds old
            skew = abs(os.fstat(file.fileno()).st_mtime - time.time())
            locks = _locks(file.fileno())
    except OSError as error:
        mend = "the profile's scratch: a folder that the nodes share and that you may write to"
        yield Diagnosis("writing", "wrong", f"{folder}: {error.strerror}", mend)
        return
    free = shutil.disk_usage(folder).free / 2**30
    found = f"{speed:.0f} MiB/s to {folder}, {free:.0f} GiB free"
    if free < FREE_GIB:
        mend = f"free at least {FREE_GIB} GiB there, or name another folder as the profile's scratch"
        yield Diagnosis("writing", "wrong", found, mend)
    elif speed < SLOW_MIB_PER_SECOND:
        yield Diagnosis("writing", "note", f"{found}, which is slow", "a faster file system as the profile's scratch")
    else:
        yield Diagnosis("writing", "ok", found)
    if not locks:
        yield Diagnosis("locks", "note", f"none on {folder}: only heartbeats keep two jobs apart", LOCKS_BETWEEN_NODES)
    if skew > CLOCKS_SECONDS:
        yield Diagnosis("clock", "wrong", f"{skew:.0f} s from the file server's", "tell the administrators (NTP)")


def _locks(descriptor: int) -> bool:
    """Returns whether flock works on an open file; some network file systems are mounted without it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _first_line(*words: str) -> str:
    """Returns the first line that a command prints; empty if the command is missing, fails or hangs."""
    try:
        output = subprocess.run(
            words, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return output.strip().split("\n", 1)[0]
