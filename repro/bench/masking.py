"""Benchmarks: commands that print ratios measured side by side in one run."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from repro.contrastive.moco import SplitBatchNorm, build_resnet, split_batch_norm
from repro.masking.strategies import SaliencyMasking, draw_patches, to_pixels
from repro.runs.run import Fidelity, Masking, Strategy
from repro.saliency.localizer import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MIN_GRID,
    STRIDE,
    Localizer,
    build_localizer,
    foreground,
)
from repro.scenes.dataset import Scenes

ROUNDS = 7


def masking(batch: int, size: int) -> dict[str, Any]:
    """High-pass masking of a query and its hard negative: the batch at once, and a plain loop over images.

    The loop does what the released random_mask_hp.py does, written straightforwardly: filter each image with
    torchvision, then assign noise patch by patch.

    Args:
        batch: images.
        size: pixels a side, a multiple of 7.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    query, key = torch.randn(2, batch, 3, size, size, device=device)
    query_foreground, key_foreground = torch.rand(2, batch, 7, 7, device=device) < 0.65
    settings = Masking(strategy=Strategy.high_pass)
    ours = SaliencyMasking(settings, Fidelity())
    generator = Generator(device).manual_seed(0)
    sides: Mapping[str, Callable[[], object]] = {
        "batched": lambda: ours(query, key, query_foreground, key_foreground, generator),
        "loop": lambda: (
            mask_in_a_loop(query, query_foreground, settings.ratio_min, settings.ratio_max, hard=False),
            mask_in_a_loop(key, key_foreground, settings.hard_ratio_min, settings.hard_ratio_max, hard=True),
        ),
    }
    seconds = timed_in_turn(sides)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return {
        "batch": f"{batch}×3×{size}×{size} on {name}",
        "batched_ms": round(1000 * seconds["batched"], 1),
        "loop_ms": round(1000 * seconds["loop"], 1),
        "loop / batched": round(seconds["loop"] / seconds["batched"], 1),
    }


class DealtOut(SplitBatchNorm):
    """Groups dealt out in turn, by the reshaping of MoCo's one-GPU demo; no running statistics, which cost nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalise N×C×H×W."""
        N, C, H, W = images.shape
        groups = images.reshape(N // self.splits, self.splits * C, H, W)
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)
        return F.batch_norm(groups, None, None, weight, bias, True, self.momentum, self.eps).reshape(N, C, H, W)


def batch_norm(batch: int, size: int) -> list[dict[str, Any]]:
    """A ResNet-18's forward and backward pass in bf16 with four batch-norm groups, ours and dealt out, beside one.

    Args:
        batch: images, a multiple of 4.
        size: pixels a side.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def step(layout: torch.memory_format, norm: Any) -> Callable[[], object]:
        network = build_resnet("resnet18", 128)
        if norm is not nn.BatchNorm2d:
            split_batch_norm(network, 4)
            for part in network.modules():
                if isinstance(part, SplitBatchNorm):
                    part.__class__ = norm  # the same weights
        network.to(device, memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = network(images).square().mean()
            loss.backward()

        return run

    rows = []
    for name, layout in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        kinds = {"one group": nn.BatchNorm2d, "ours": SplitBatchNorm, "dealt out": DealtOut}
        seconds = timed_in_turn({kind: step(layout, norm) for kind, norm in kinds.items()})
        ratios = {f"{kind} ×": round(seconds[kind] / seconds["one group"], 2) for kind in ("ours", "dealt out")}
        rows.append({"layout": name, "one group ms": round(1000 * seconds["one group"], 1), **ratios})
    return rows


def scenes(size: int, cutouts: Path | None, count: int = 64) -> dict[str, Any]:
    """Drawing scenes, and reading those that are kept.

    Args:
        size: pixels a side.
        cutouts: folder of RGBA cut-outs; None for drawn shapes.
        count: scenes a round.
    """
    drawn, kept = (Scenes("train", count=count, size=size, cutouts=cutouts) for _ in range(2))

    def all_of(made: Scenes) -> Callable[[], object]:
        return lambda: [made[index] for index in range(count)]

    with tempfile.TemporaryDirectory() as folder:
        kept.keep(Path(folder))
        seconds = timed_in_turn({"draw": all_of(drawn), "read": all_of(kept)})
    return {
        "scene": f"{size}×{size}, {'drawn shapes' if cutouts is None else 'cut-outs'}",
        "draw_ms": round(1000 * seconds["draw"] / count, 2),
        "read_ms": round(1000 * seconds["read"] / count, 2),
        "draw / read": round(seconds["draw"] / seconds["read"], 1),
    }


def timed_in_turn(sides: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, run in turn so that a machine's moods fall on all alike."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            if turn:  # the first one warms up
                took[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in took.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def mask_in_a_loop(images: Tensor, foreground: Tensor, low: float, high: float, *, hard: bool) -> Tensor:
    """High-pass masking of one image and one patch after the other; slow, and easy to check."""
    made = []
    side = images.shape[-1] // foreground.shape[-1]
    std = 0.14 if hard else 0.18
    for image, front in zip(images, foreground, strict=True):
        image = image - gaussian_blur(image, [11, 11], [5.0, 5.0])  # noqa: PLW2901
        size = image.shape[-1]
        if torch.rand(()) < 0.2:
            box = round(size * (130 if hard else 200) / 224)
            top, left = torch.randint(0, size - box + 1, (2,)).tolist()
            inside = torch.zeros(size, size, dtype=torch.bool, device=image.device)
            inside[top : top + box, left : left + box] = True
            hidden = inside if hard else ~inside
            image[:, hidden] = std * torch.randn(3, int(hidden.sum()), device=image.device)
        else:
            alpha = low + (high - low) * float(torch.rand(()))
            channels = [[0, 1, 2]] if torch.rand(()) < 0.3 else [[0], [1], [2]]
            for chosen in channels:
                for stratum in (front,) if hard else (front, ~front):
                    cells = stratum.nonzero().tolist()
                    count = round(49 * alpha * len(cells) / 49)
                    for index in torch.randperm(len(cells))[:count].tolist():
                        row, column = (side * position for position in cells[index])
                        patch = (slice(row, row + side), slice(column, column + side))
                        for channel in chosen:
                            image[channel][patch] = std * torch.randn(side, side, device=image.device)
        made.append(image)
    return torch.stack(made)


def saliency(scenes: Scenes, size: int) -> list[dict[str, Any]]:
    """How well the foreground covers the object whose mask is known, on whole scenes without augmentation.

    Args:
        scenes: an opened `Scenes`; its pictures are size×size.
        size: pixels a side.

    Returns:
        A row a map: mean intersection over union with the object's mask, precision and recall over pixels, and the
        share of the picture that is foreground (gamma). The maps: the paper's; the released code's, rows sorted (B1);
        as many cells at random; and, where views are small, the paper's rule on a shallower stage, which would need no
        enlarged views.
    """
    drawn = [scenes.scene(index) for index in range(len(scenes))]
    masks = torch.stack([torch.from_numpy(scene.instances[0].mask) for scene in drawn])
    pixels = torch.stack([pil_to_tensor(scene.image) for scene in drawn])
    views = normalize(pixels.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
    localizer = build_localizer("efficientnet-lite0", "")
    activations = torch.cat([localizer(part) for part in views.split(50)])
    front = foreground(activations)
    generator = Generator().manual_seed(0)
    maps = {
        "paper": front,
        "released (rows sorted)": foreground(activations, row_sorted=True),
        "as many cells at random": as_many_at_random(front, generator),
    }
    if size < MIN_GRID * STRIDE:
        maps["paper, stride-16 stage"] = foreground(
            torch.cat([_shallower(localizer, part) for part in views.split(50)])
        )
    return [{"foreground": name, **overlap(cells, masks)} for name, cells in maps.items()]


@torch.no_grad()
def _shallower(localizer: Localizer, views: Tensor) -> Tensor:
    """Activations of the stage before the last, of views as small as they are."""
    network: Any = localizer.network.model
    (tapped,) = network.forward_intermediates(
        views * localizer.scale + localizer.shift, indices=[-2], intermediates_only=True
    )
    return tapped


def as_many_at_random(cells: Tensor, generator: Generator) -> Tensor:
    """Chance: a map B×g×g with as many cells as the given one in each image, anywhere."""
    counts = (cells.sum((1, 2)), torch.zeros(len(cells), device=cells.device))
    return draw_patches(torch.ones_like(cells), counts, 1, generator).squeeze(1)


def overlap(cells: Tensor, masks: Tensor) -> dict[str, float]:
    """How well cells B×g×g cover objects B×H×W, both boolean, every object with at least one pixel."""
    shown = to_pixels(cells.unsqueeze(1), masks.shape[-2:]).squeeze(1)
    both, either = (pixels.sum((1, 2)).float() for pixels in (shown & masks, shown | masks))
    return {
        "mean IoU": round((both / either).mean().item(), 3),
        "precision": round((both / shown.sum((1, 2)).clamp(min=1)).mean().item(), 3),
        "recall": round((both / masks.sum((1, 2))).mean().item(), 3),
        "gamma": round(cells.float().mean().item(), 3),
    }
