"""What only a GPU can show; skipped where there is none.

Tests of the same things on a CPU stand beside what they test. Run them alone with `pytest tests/test_gpu.py`.
"""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from contrastive_samples import draws, pixels
from gpu_samples import GPU, NEEDS_GPU, on_gpu, trained
from json_rows import read_rows
from torch import Tensor
from training_samples import (
    CPU,
    Poison,
    assert_same_training,
    interrupt,
    make_training,
    newest,
    salmask,
    tiny,
    with_random_backbone,
    words,
)

from baselines import METHODS, TABLE1, build_learner
from repro.augmentation.on_device import apply_on_device
from repro.augmentation.resampling import resample
from repro.processes.distributed import barrier, initialise
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.settings.choices import Interpolation
from repro.settings.sections import AugmentationSettings
from repro.training.batches.resident import ResidentImages
from repro.training.checkpoints.stop_agreement import StopAgreement, ask_all
from repro.training.pretraining import open_data
from repro.training.watching.hooks import DivergenceError

pytestmark = NEEDS_GPU

PRECISIONS = ("fp32", "bf16", "fp16")
FAST = "simclr+ours-hp"
TRAINABLE = [
    pytest.param(name, marks=[] if name == FAST else pytest.mark.slow)
    for name in METHODS
    if not name.endswith("-checkpoint")  # needs a path
]


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in read_rows(folder.metrics)]


@pytest.fixture
def exact() -> Iterator[None]:
    """Products in full single precision, by algorithms that add up in one order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        patch.setattr(torch.backends.cudnn, "deterministic", True)
        yield


# The same numbers


def test_views_are_those_of_the_cpu() -> None:
    made = torch.stack([draw.row() for draw in draws(64, AugmentationSettings())])
    images = pixels(64)
    difference = (apply_on_device(images.to(GPU), made).cpu() - apply_on_device(images, made)).abs()
    # A hue on the edge of its sector may fall to either side; very few do.
    assert difference.flatten(1).amax(1).sort().values[-4] < 1e-4


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("method", ["mocov2", "simclr", "supervised"])
def test_training_begins_as_on_the_cpu(method: str, tmp_path: Path) -> None:
    # Rounding errors grow from step to step, fast with batch norm over 8 values.
    run = on_gpu(method)
    first, second = (losses(trained(run, tmp_path / device.type, device)) for device in (CPU, GPU))
    assert first[0] == pytest.approx(second[0], rel=1e-3)
    assert first[1] == pytest.approx(second[1], rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_single(precision: str, tmp_path: Path) -> None:
    run = on_gpu("mocov2+ours-mean", masking__guidance="random", optimization__epochs=1)
    half = on_gpu(
        "mocov2+ours-mean", masking__guidance="random", optimization__epochs=1, optimization__precision=precision
    )
    one, other = (trained(each, tmp_path / name, GPU) for each, name in ((run, "single"), (half, "half")))
    assert losses(one) != losses(other)
    assert losses(one)[0] == pytest.approx(losses(other)[0], abs=0.2)
    dtypes = {x.dtype for x in newest(other.checkpoints)["model"].values() if isinstance(x, Tensor)}
    assert dtypes == {torch.float32, torch.int64}


def test_the_memory_layout_changes_nothing_but_rounding(tmp_path: Path) -> None:
    runs = [on_gpu("simclr+ours-hp", masking__guidance="random", machine__channels_last=on) for on in (False, True)]
    first, second = (trained(run, tmp_path / str(n), GPU) for n, run in enumerate(runs))
    assert losses(first)[0] == pytest.approx(losses(second)[0], rel=2e-3)
    learner = build_learner(runs[1], open_data(runs[1], "train"), GPU)
    assert learner.encoder.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("method", "map_of"),
    [
        ("mocov2+ours-hp", "view"),
        ("mocov2+ours-hp", "image"),
        ("mocov2+ours-hp-hard-by-random", "image"),
        ("simclr+ours-blur", "view"),
        ("supervised", "view"),
    ],
)
def test_replayed_steps_are_the_usual_ones(method: str, map_of: str, tmp_path: Path) -> None:
    runs = [on_gpu(method, machine__graphs=on, localizer__map=map_of) for on in (False, True)]
    usual, replayed = (trained(run, tmp_path / str(n), GPU) for n, run in enumerate(runs))
    # Six steps, the last three of which are replayed.
    assert losses(usual) == losses(replayed)
    assert_same_training(usual.checkpoints, replayed.checkpoints)


@pytest.mark.usefixtures("exact")
def test_replayed_training_resumes_bit_by_bit(tmp_path: Path) -> None:
    run = on_gpu("mocov2+ours-hp", machine__graphs=True, optimization__epochs=5)
    whole, folder = trained(run, tmp_path / "whole", GPU), RunFolder(tmp_path / "interrupted")
    interrupt(run, folder, 5, device=GPU)
    make_training(run, folder, device=GPU).run()
    assert_same_training(folder.checkpoints, whole.checkpoints)


def test_the_guard_sees_gradients_of_replayed_steps(tmp_path: Path) -> None:
    run = on_gpu("mocov2", machine__graphs=True, optimization__lr=1e30, optimization__epochs=5)
    with pytest.raises(DivergenceError, match="is not finite"):
        trained(run, tmp_path, GPU)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mocov2", "mocov2+ours-hp", "simclr", "supervised"])
def test_compiled_encoders_depart_by_rounding(method: str, tmp_path: Path) -> None:
    runs = [on_gpu(method, machine__compile=on, machine__graphs=on) for on in (False, True)]
    plain, compiled = (trained(run, tmp_path / str(n), GPU) for n, run in enumerate(runs))
    assert losses(plain)[0] == pytest.approx(losses(compiled)[0], rel=2e-3)
    assert set(newest(plain.checkpoints)["model"]) == set(newest(compiled.checkpoints)["model"])


# Every row


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", TABLE1)
def test_each_row_trains_in_every_precision(method: str, precision: str, tmp_path: Path) -> None:
    run = on_gpu(method, optimization__precision=precision, machine__channels_last=True, machine__workers=2)
    folder = trained(run, tmp_path, GPU)
    assert newest(folder.checkpoints)["step"] == 6
    assert torch.tensor(losses(folder)).isfinite().all()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("method", TRAINABLE)
def test_each_row_resumes_bit_by_bit(method: str, tmp_path: Path) -> None:
    run = on_gpu(method, optimization__precision="bf16")
    whole, folder = trained(run, tmp_path / "whole", GPU), RunFolder(tmp_path / "interrupted")
    interrupt(run, folder, 6, device=GPU)
    make_training(run, folder, device=GPU).run()
    assert_same_training(folder.checkpoints, whole.checkpoints)


@pytest.mark.usefixtures("exact")
def test_the_state_of_the_loss_scaler_is_resumed(tmp_path: Path) -> None:
    run = on_gpu("mocov2+ours-hp", optimization__precision="fp16")
    whole, folder = trained(run, tmp_path / "whole", GPU), RunFolder(tmp_path / "interrupted")
    interrupt(run, folder, 5, device=GPU)
    make_training(run, folder, device=GPU).run()
    assert_same_training(folder.checkpoints, whole.checkpoints)


# Checks during training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_is_told_at_the_next_reading(precision: str, tmp_path: Path) -> None:
    run = on_gpu(optimization__precision=precision, machine__log_every=5, machine__checkpoint_every=3)
    folder = RunFolder(tmp_path)
    with pytest.raises(DivergenceError, match=r"step 3 is not finite"):
        make_training(run, folder, Poison(3), device=GPU).run()
    assert [path.name for path in checkpoints(folder.checkpoints)] == ["step_00000002.pth"]


def test_a_gradient_too_large_for_fp16_is_the_scalers_business(tmp_path: Path) -> None:
    run = on_gpu(optimization__precision="fp16")
    assert newest(trained(run, tmp_path, GPU, Poison(3)).checkpoints)["step"] == 6


# Processes


def test_one_process_of_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29731",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    device = initialise("auto", os.environ)
    try:
        assert device == GPU
        assert dist.get_backend() == "nccl"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            barrier()
        value = torch.ones(3, device=device)
        dist.all_reduce(value)
        assert value.tolist() == [1.0] * 3
        assert not StopAgreement().at_once()
        monkeypatch.setattr("repro.training.checkpoints.stop_agreement.STOP.signal", 12)
        assert ask_all().answer() == 12
    finally:
        dist.destroy_process_group()


# Commands


def test_evaluations_run_on_the_gpu(tmp_path: Path) -> None:
    quick = ("probe.epochs=1", "logistic.values=2", "knn.neighbours=[5]", "finetune.epochs=1")
    numbers = {}
    for device in ("cpu", "cuda"):
        folder = with_random_backbone(tiny("mocov2", {"encoder.width": 64}), tmp_path / device)
        arguments = ("eval", str(folder.path), *quick, f"machine.device={device}")
        ended = salmask(*arguments, "--task", "linear,logistic,knn,finetune", "--json")
        assert ended.code == 0, ended.err
        numbers[device] = {(row["task"], row["metric"]): row["value"] for row in json.loads(ended.out)}
    assert numbers["cpu"].keys() == numbers["cuda"].keys()
    assert numbers["cpu"][("knn", "top1")] == pytest.approx(numbers["cuda"][("knn", "top1")], abs=9)  # two of 24 images


def test_a_detector_is_fine_tuned_on_the_gpu(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    folder = with_random_backbone(tiny("mocov2", {"encoder.width": 64}), tmp_path)
    small = ("detection.iterations=4", "detection.min_size=64", "detection.rois=8", "detection.trials=1")
    tasks = ("--task", "voc07+12,coco", "--data", "scenes")
    ended = salmask("eval", str(folder.path), "machine.device=cuda", *small, *tasks, "--json")
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)
    assert {row["task"] for row in rows} == {"voc07+12", "coco"}
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}


@pytest.mark.parametrize("command", [("doctor",), ("bench", "step", "--steps", "2", "mocov2")])
def test_commands_that_ask_the_gpu(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    kept = [word for word in words() if not word.startswith("machine.device")] if command[0] == "bench" else []
    ended = salmask(*command, *kept)
    assert ended.code == 0, ended.err
    assert torch.cuda.get_device_name() in ended.out + ended.err


@pytest.mark.parametrize("interpolation", list(Interpolation))
@pytest.mark.parametrize("tf32", [False, True])
def test_crops_of_resident_images_are_pillows_bytes_here_too(
    tf32: bool, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8, generator=generator)
    heights, widths = (torch.randint(1, 97, (64,), generator=generator) for _ in range(2))
    here = resample(windows.to(GPU), heights.to(GPU), widths.to(GPU), 64, interpolation)
    assert torch.equal(here.cpu(), resample(windows, heights, widths, 64, interpolation))


def test_crops_of_resident_images_fit_into_a_cuda_graph() -> None:
    resident = ResidentImages.load(open_data(on_gpu(), "train"), GPU, workers=0)
    index, boxes = torch.arange(8, device=GPU), torch.tensor([[3, 5, 40, 50]] * 8, device=GPU)

    def crop() -> Tensor:
        return resident.crops(index, boxes, 32, Interpolation.bilinear)

    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        crop()  # cuBLAS initialises itself
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = crop()
    index.copy_(index.flip(0))
    boxes[:, 0] = 9
    graph.replay()
    assert torch.equal(captured, crop())


def test_images_in_the_gpus_memory_train_the_same(tmp_path: Path) -> None:
    plain, resident = (
        losses(trained(on_gpu(FAST, masking__guidance="random", machine__resident=flag), tmp_path / str(flag), GPU))
        for flag in (False, True)
    )
    assert resident == pytest.approx(plain, rel=1e-3)  # a GPU adds up in no fixed order
    assert resident[0] == pytest.approx(plain[0], rel=1e-5)
