"""Barriers of all processes, tensors that they gather, and what they ask each other on a GPU."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from repro.processes.distributed import barrier, gather
from repro.training.checkpoints.stop_agreement import ask_all


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

    monkeypatch.setattr("repro.processes.distributed.world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(gather(images.contiguous(memory_format=layout)), torch.cat([images, images]))


def test_an_answer_from_gpus_is_on_its_way_to_the_host_while_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    class Event:
        def record(self) -> None:
            told.append("noted where the copy ends")

        def synchronize(self) -> None:
            told.append("the process waits")

    class Work:
        def wait(self) -> None:
            told.append("the stream waits")

    def full(size: tuple[int], value: int, *, dtype: torch.dtype, device: str) -> Tensor:
        told.append(device)
        return torch.tensor([value], dtype=dtype)

    def all_reduce(signal: Tensor, operation: dist.ReduceOp, *, async_op: bool) -> Work:
        assert (operation, async_op) == (dist.ReduceOp.MAX, True)
        signal.clamp_(min=12)  # another process's
        return Work()

    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(torch, "full", full)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    question = ask_all()
    assert told == ["cuda", "the stream waits", "noted where the copy ends"]
    assert question.answer() == 12
    assert told[3:] == ["the process waits"]
