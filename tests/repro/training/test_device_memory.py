"""The memory limit of a Slurm job or container counts, however much memory its machine has."""

from pathlib import Path

import pytest
import torch
from training_samples import CPU, tiny

from baselines import resolve
from repro.errors import UserError
from repro.processes import control_groups
from repro.training.batches import device_memory
from repro.training.batches.device_memory import free_bytes, least_bytes, require_memory, total_bytes

GIB = 2**30


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the kernel's files: the machine has 64 GiB free, and no group has a limit."""
    monkeypatch.setattr(device_memory, "MEMORY", tmp_path / "MEMORY")
    for name in ("GROUPS", "HIERARCHIES"):
        monkeypatch.setattr(control_groups, name, tmp_path / name)
    (tmp_path / "MEMORY").write_text(f"MemTotal: 1000 kB\nMemAvailable:   {64 * 2**20} kB\nHugePages_Total:  0\n")
    (tmp_path / "GROUPS").write_text("9:name=systemd:/a\n0::/\n")
    (tmp_path / "HIERARCHIES").mkdir()
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 128 * GIB // 4096}.__getitem__)
    return tmp_path


def test_without_a_limit_the_machine_counts(kernel: Path) -> None:
    assert (free_bytes(CPU), total_bytes(CPU)) == (64 * GIB, 128 * GIB)


def test_the_narrowest_group_counts_wherever_it_stands(kernel: Path) -> None:
    (kernel / "GROUPS").write_text("0::/slurm/job_7/step_0\n")
    for name, limit, used, dropped in (
        ("slurm", 48, 30, 0),
        ("slurm/job_7", 32, 10, 2),
        ("slurm/job_7/step_0", 0, 9, 1),
    ):
        folder = kernel / "HIERARCHIES" / name
        folder.mkdir()
        (folder / "memory.max").write_text(f"{limit * GIB}\n" if limit else "max\n")
        (folder / "memory.current").write_text(f"{used * GIB}\n")
        (folder / "memory.stat").write_text(f"anon {GIB}\ninactive_file {dropped * GIB}\nactive_file {GIB}\n")
    assert (free_bytes(CPU), total_bytes(CPU)) == (18 * GIB, 32 * GIB)


def test_the_first_version_of_groups_is_read_too(kernel: Path) -> None:
    (kernel / "GROUPS").write_text("4:memory:/docker/a\n1:cpu,cpuacct:/docker/a\n0::/docker/a\n")
    folder = kernel / "HIERARCHIES" / "memory"  # within a container, only the root of the path is visible
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{16 * GIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{6 * GIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {3 * GIB}\n")
    assert (free_bytes(CPU), total_bytes(CPU)) == (13 * GIB, 16 * GIB)


def test_a_system_that_tells_nothing_sets_no_limit(kernel: Path) -> None:
    for name in ("GROUPS", "MEMORY"):
        (kernel / name).unlink()
    assert (free_bytes(CPU), total_bytes(CPU)) == (float("inf"), 128 * GIB)
    (kernel / "MEMORY").write_text("MemTotal: 1000 kB\n")
    assert free_bytes(CPU) == float("inf")


def test_of_a_gpu_what_torch_holds_for_later_use_is_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"mem_get_info": (10 * GIB, 80 * GIB), "memory_reserved": 7 * GIB, "memory_allocated": 4 * GIB}
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, answer=answer: answer)
    gpu = torch.device("cuda")
    assert (free_bytes(gpu), total_bytes(gpu)) == (13 * GIB, 80 * GIB)


def test_a_run_that_a_job_was_given_too_little_for_is_refused(kernel: Path) -> None:
    (kernel / "HIERARCHIES" / "memory.max").write_text(f"{GIB // 2}\n")
    (kernel / "HIERARCHIES" / "memory.current").write_text("0\n")
    run = tiny("mocov2", {"moco.queue": 2**21, "encoder.dim": 128})
    with pytest.raises(
        UserError,
        match=r"needs at least 1\.\d GiB of memory, .* but there are only 0\.5 GiB; mend: a smaller moco.queue$",
    ):
        require_memory(run, CPU)


def test_what_a_run_takes_at_least_is_of_its_widest_layer_its_views_and_its_queue() -> None:
    width, views, queue = ("encoder.dim", "encoder.width"), ("optimization.batch", "data.crop"), "moco.queue"
    papers = least_bytes(resolve("mocov2"))
    assert papers == {width: 3 * 2048 * 128 * 4, views: 2 * 128 * 3 * 224**2 * 4, (queue, "encoder.dim"): 2**16 * 512}
    small = least_bytes(tiny("simclr", {"encoder.width": 16, "encoder.dim": 8}))
    assert (small[width], len(small)) == (3 * 8 * 16 * 8 * 4, 2)  # resnet18's last stage is only eight times as wide


def test_processes_share_the_memory_of_a_batch(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel / "HIERARCHIES" / "memory.max").write_text(f"{GIB}\n")
    (kernel / "HIERARCHIES" / "memory.current").write_text("0\n")
    run = tiny("simclr", {"optimization.batch": 2048, "data.crop": 224})  # 2.3 GiB of views
    with pytest.raises(UserError, match=r"most of it for optimization\.batch, data\.crop"):
        require_memory(run, CPU)
    monkeypatch.setattr(device_memory, "world_size", lambda: 8)
    require_memory(run, CPU)
