"""What all processes wait at."""

import pytest
import torch
import torch.distributed as dist

from repro.distributed import barrier


@pytest.mark.parametrize(("backend", "devices"), [("gloo", None), ("nccl", [3])])
def test_a_barrier_of_nccl_is_one_of_this_processes_own_gpu(
    monkeypatch: pytest.MonkeyPatch, backend: str, devices: list[int] | None
) -> None:
    told: list[list[int] | None] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "barrier", lambda *, device_ids: told.append(device_ids))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    barrier()
    assert told == [devices]
