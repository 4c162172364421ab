"""Barriers of all processes, and tensors that they gather."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from repro.distributed import barrier, gather


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


def test_images_with_channels_last_are_gathered_by_a_backend_that_copies_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather(outputs: list[Tensor], local: Tensor) -> None:
        for output in outputs:
            output.untyped_storage().copy_(local.untyped_storage())

    monkeypatch.setattr("repro.distributed.world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(gather(images.contiguous(memory_format=layout)), torch.cat([images, images]))
