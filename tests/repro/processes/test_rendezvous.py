"""How the tasks of a Slurm step find each other, whatever else uses their port."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from error_samples import message_of

from repro.errors import UserError
from repro.processes.distributed import initialise
from repro.processes.rendezvous import PORTS, meet, ports_of, slurm_to_env

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[03-07]",
}


@pytest.fixture(autouse=True, scope="module")
def no_store_outlives_these_tests() -> Iterator[None]:
    """A store has a C++ thread: a process that a later test forks would be aborted on collecting a forgotten store."""
    yield
    gc.collect()  # an error's traceback holds the store in a cycle


def test_slurm_tasks_become_ranks() -> None:
    assert slurm_to_env(SLURM) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "node03",
        "MASTER_PORT": "28544",
    }


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[03-07]", "node03"),
        ("node[03,05-07]", "node03"),
        ("gpu-a1", "gpu-a1"),
        ("a,b,c", "a"),
        ("rack-1-[9-11],rack-2-[1-4]", "rack-1-9"),
        ("login,node[1-2]", "login"),
        ("rack[1-2]node[1-4]", "rack1node1"),
        ("node003.cluster.example", "node003.cluster.example"),
    ],
)
def test_the_first_node_is_the_master(nodes: str, first: str) -> None:
    assert slurm_to_env({**SLURM, "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"MASTER_ADDR": ""}, "RANK=0 is set, and MASTER_ADDR is not"),
        ({"WORLD_SIZE": ""}, "RANK=0 is set, and WORLD_SIZE is not"),
        ({"RANK": "x"}, "RANK=x is not a number that a launcher sets"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 is not a number that a launcher sets"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536 is not a number that a launcher sets"),
        ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_variables_of_no_launcher_are_one_line(changes: dict[str, str], what: str) -> None:
    """They used to be a fault of salmask's own."""
    assert message_of(lambda: initialise("cpu", {**LAUNCHED, **changes})) == (
        f"{what}; mend: start all processes with torchrun or srun; for a single one, `unset RANK`"
    )


@pytest.mark.parametrize(
    ("launched", "mend"),
    [
        (LAUNCHED, "repeat; if you chose MASTER_PORT yourself, with another one"),
        (
            {**SLURM, "SLURM_PROCID": "0", "MASTER_ADDR": "127.0.0.1"},
            "set MASTER_ADDR and MASTER_PORT in the profile's setup, to a name and a port by which nodes reach the "
            "first one",
        ),
    ],
)
def test_a_port_that_another_program_has_is_one_line(
    launched: dict[str, str], mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users who launched by a profile used to be told to start with torchrun."""
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr("os.environ", {**os.environ, **launched, "MASTER_PORT": port})
        told = message_of(lambda: initialise("cpu", os.environ))
    assert told.startswith(f"rank 0 cannot join at 127.0.0.1:{port} (")
    assert "EADDRINUSE" in told
    assert told.endswith(f"; mend: {mend}")


@pytest.mark.parametrize("job", ["1", "19999", "20000", "4294967295"])
def test_ports_follow_from_the_job(job: str) -> None:
    ports = ports_of(job)
    assert slurm_to_env({**SLURM, "SLURM_JOB_ID": job})["MASTER_PORT"] == str(ports[0])
    assert ports[0] == 20000 + int(job) % 12768
    assert len(set(ports)) == len(ports) == PORTS
    assert all(20000 <= port < 32768 for port in ports)


def test_tasks_of_one_node_meet_without_its_name() -> None:
    assert slurm_to_env({**SLURM, "SLURM_STEP_NUM_NODES": "1"})["MASTER_ADDR"] == "127.0.0.1"
    assert slurm_to_env({**SLURM, "SLURM_STEP_NUM_NODES": "5"})["MASTER_ADDR"] == "node03"


@pytest.mark.parametrize(
    "environ", [{}, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}]
)
def test_without_several_tasks_there_is_nothing_to_translate(environ: dict[str, str]) -> None:
    assert slurm_to_env(environ) == {}


def test_a_list_of_nodes_that_names_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"SLURM_STEP_NODELIST='' names no node; mend: set MASTER_ADDR"):
        slurm_to_env({**SLURM, "SLURM_STEP_NODELIST": ""})


JOB = os.getpid() * 4  # unique among the tests on this machine


def task(number: int, *, job: int = JOB, attempt: int = 0, tasks: int = 2) -> dict[str, str]:
    """The environment of a task in a step on two nodes, the first of which is this machine."""
    step = {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "localhost,elsewhere",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": "0",
        "SLURM_RESTART_COUNT": str(attempt),
    }
    return step | slurm_to_env(step)


def meeting(*tasks: dict[str, str], seconds: float = 30) -> list[list[str]]:
    """What each task reads of the values that all tasks wrote into the store that they found."""
    stores = []  # kept until all have read: the clients' stores end with rank 0's

    def write_and_read(number: int) -> list[str]:
        store = meet(tasks[number], seconds=seconds)
        stores.append(store)
        store.set(f"{tasks[number]['SLURM_JOB_ID']} {tasks[number]['RANK']}", str(number))
        others = [f"{tasks[number]['SLURM_JOB_ID']} {rank}" for rank in range(int(tasks[number]["WORLD_SIZE"]))]
        return [store.get(name).decode() for name in others]  # waits

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(write_and_read, range(len(tasks))))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.processes.rendezvous.ANSWER_SECONDS", 0.3)


@pytest.fixture
def taken(quick: None) -> Iterator[None]:
    """Two programs that occupy the job's first two ports and never answer."""
    with socket.create_server(("", ports_of(str(JOB))[0])) as _, socket.create_server(("", ports_of(str(JOB))[1])):
        yield


def test_ranks_share_a_store() -> None:
    assert meeting(task(0, tasks=3), task(1, tasks=3), task(2, tasks=3)) == [["0", "1", "2"]] * 3


def test_a_port_that_is_taken_is_passed_by(taken: None) -> None:
    assert meeting(task(0), task(1)) == [["0", "1"]] * 2


def test_two_jobs_whose_numbers_lead_to_one_port_keep_apart(quick: None) -> None:
    other = JOB + 12768
    assert ports_of(str(JOB)) == ports_of(str(other))
    tasks = (task(0), task(1), task(0, job=other), task(1, job=other))
    assert meeting(*tasks) == [["0", "1"]] * 2 + [["2", "3"]] * 2


def test_an_earlier_attempt_is_not_met(quick: None) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, task(0, attempt=0), seconds=2)
        second = pool.submit(meet, task(1, attempt=1), seconds=1)
        with pytest.raises(UserError, match=r"rank 1 on .* does not find rank 0 at localhost:\d+ \(another program"):
            second.result()
        told = r"only 0 of 1 other ranks found rank 0 on .*; mend: set MASTER_ADDR and MASTER_PORT in "
        with pytest.raises(UserError, match=told):
            first.result()


def test_a_node_whose_name_does_not_resolve_is_told(quick: None) -> None:
    with pytest.raises(
        UserError, match=r"does not find rank 0 at no\.such\.node\.invalid:\d+ \(.*\); mend: set MASTER_ADDR"
    ):
        meet(task(1) | {"MASTER_ADDR": "no.such.node.invalid"}, seconds=0.2)


def test_no_free_port_at_all_is_told(monkeypatch: pytest.MonkeyPatch, taken: None) -> None:
    monkeypatch.setattr("repro.processes.rendezvous.PORTS", 2)
    told = r"rank 0 finds none of its ports free on .*; mend: set MASTER_PORT in the profile"
    with pytest.raises(UserError, match=told):
        meet(task(0), seconds=1)


SUM = """
import torch, torch.distributed as dist
from repro.processes.distributed import initialise
initialise("cpu")
number = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(number)
print(dist.get_world_size(), number.item())
"""


@pytest.mark.end_to_end
def test_processes_of_two_nodes_join_one_group() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environments = [{k: v for k, v in task(number, job=JOB + 1).items() if k not in ours} for number in (0, 1)]
    words = [sys.executable, "-c", SUM]
    joined = [
        subprocess.Popen(words, env=inherited | environment, stdout=subprocess.PIPE, text=True)
        for environment in environments
    ]
    assert [process.communicate(timeout=120)[0].split() for process in joined] == [["2", "3.0"]] * 2
