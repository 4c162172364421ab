"""A small sweep of jobs on this machine, whose programs import no torch, and its launch."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_runs import tiny

from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from slurm.local.launch import launch_here
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.status import rows
from slurm.planning.graph import Graph, Job, make_graph
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.ledger import Ledger

HERE_CLUSTER = Cluster("local", executor="local")
PROGRAMS = """
import json, os, signal, sys, time
from pathlib import Path
from repro.runs.folder import RunFolder

ABOVE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "TORCHELASTIC_USE_AGENT_STORE")

def record(run, path, task, *, wait):
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", *ABOVE)
    content = {name: os.environ.get(name) for name in names} | {"begun": time.time()}
    if meeting := os.environ.get("MEETING"):
        begun, patience = Path(meeting), time.monotonic() + 60
        (begun / Path(path).name).touch()
        while len(list(begun.iterdir())) < int(os.environ["MEETING_OF"]) and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(0.1)
    content["ended"] = time.time()
    rank = os.environ.get("RANK", "0")
    (Path(path) / f"seen-{task}-{rank}.json").write_text(json.dumps(content))
    if rank == "0":
        RunFolder(Path(path)).backbone.write_text("x")

def warn(run, path, task, *, wait):
    import logging
    folder = RunFolder(Path(path))
    with folder.attempt(task):
        logging.getLogger("salmask").warning("steps wait for data 24% of the time; mend: more machine.workers")
        logging.getLogger("salmask").info("loaded")
        folder.set_status("running")
        time.sleep(float(os.environ.get("WARNED_FOR", "0")))
        folder.backbone.write_text("x")

def lose_one(run, path, task, *, wait):
    folder = RunFolder(Path(path))
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    with folder.attempt(task):
        raise RuntimeError("[../gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:2")

def last(run, path, task, *, wait):
    from repro.runs.stopping import STOP
    STOP.install()
    with RunFolder(Path(path)).attempt(task):
        time.sleep(60)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of programs for jobs, which imports no torch."""
    place = tmp_path / "code"
    place.mkdir()
    (place / "job_programs.py").write_text(PROGRAMS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *sys.path]))
    return place


def graph_of(place: Path, seeds: int) -> Graph:
    runs = [tiny(changes={"seed": seed}) for seed in range(seeds)]
    return make_graph(place, [Job(run, RunFolder.of(run, place), "pretrain") for run in runs], ())


def seen(graph: Graph, rank: int = 0) -> list[dict[str, Any]]:
    return [json.loads((job.folder.path / f"seen-pretrain-{rank}.json").read_text()) for job in graph.jobs]


def told(graph: Graph) -> list[tuple[str, str]]:
    """What `salmask status` tells of each job."""
    return [(row.state.value, row.note) for row in rows(Ledger(graph.sweep_folder), QueueSnapshot(), time.time())]


def launched(graph: Graph, function: str, cluster: Cluster = HERE_CLUSTER, **options: Any) -> Any:
    program = replace(PROGRAM, task=f"job_programs:{function}")
    return launch_here(graph, cluster, program, **{"parallel": 1, "console": Console(stderr=True), **options})
