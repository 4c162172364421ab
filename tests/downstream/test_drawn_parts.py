"""A picture of a scored image: what its parts are made from, and where they stand."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from training_samples import tiny

from downstream import scored_pictures
from downstream.crops import CentralCrops
from downstream.scored_pictures import pictures_of_scored
from repro.augmentation.normalization import Normalization
from repro.randomness import Purpose, stream_seed
from repro.training.pretraining import open_data


def shown(picture: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "JPEG"  # as the page says
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_is_shown_in_its_own_brightness(level: int) -> None:
    pixels = torch.full((3, 32, 32), level, dtype=torch.uint8)
    assert np.abs(shown(scored_pictures._picture(pixels, None, 0)) - level).max() == 0


def test_foreground_and_mask_are_of_the_normalised_image_and_drawn_over_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0))
    plain = pixels.unsqueeze(0) / 255
    normal, found = Normalization()(plain), torch.eye(4, dtype=torch.bool).unsqueeze(0)
    made = SimpleNamespace(query=torch.zeros_like(plain), key=torch.ones_like(plain))
    given: dict[str, Any] = {}

    def foregrounds(views: Tensor, batch: dict[str, Any], name: str) -> Tensor:
        given["foreground"] = (views, batch, name)
        return found

    def masking(*arguments: Any) -> SimpleNamespace:
        given["mask"] = arguments
        return made

    def part(name: str, level: float) -> None:
        def draw(*arguments: Tensor) -> Tensor:
            given[name] = arguments
            return torch.full((1, 3, 32, 32), level)

        monkeypatch.setattr(scored_pictures, name, draw)

    part("overlay", 0.0)
    part("stretch", 1.0)
    maker: Any = SimpleNamespace(normalise=Normalization(), foregrounds=foregrounds, masking=masking)
    sheet = shown(scored_pictures._picture(pixels, maker, 7))
    views, batch, name = given["foreground"]
    assert (torch.equal(views, normal), batch, name) == (True, {}, "query")
    *masked, generator = given["mask"]
    assert all(map(torch.equal, masked, (normal, normal, found, found)))
    assert generator.initial_seed() == 7
    assert all(map(torch.equal, given["overlay"], (plain, found)))
    assert given["stretch"][0] is made.query
    assert sheet.shape == (32, 3 * 32 + 2 * 4, 3)
    # JPEG blurs a sharp edge over up to eight pixels.
    assert (sheet[:, 48:64].max(), sheet[:, 84:].min()) == (0, 255)
    assert np.abs(sheet[:, 68:72].mean((0, 1)) - (128, 136, 144)).max() < 40


def test_a_mask_is_drawn_by_the_run_the_split_and_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, None, int]] = []
    monkeypatch.setattr(scored_pictures, "_picture", lambda *arguments: drawn.append(arguments) or b"")
    images, runs = [(0, 1), (1, 1), (0, 2)], [tiny(), tiny(changes={"seed": 5})]
    for run in runs:
        assert pictures_of_scored(run, "knn", "scenes", images) == [b""] * 3
    expected = [(run, split, index) for run in runs for split, index in images]
    for (pixels, _, seed), (run, split, index) in zip(drawn, expected, strict=True):
        assert seed == stream_seed(run.seed, Purpose.mask, split, index)
        assert torch.equal(pixels, CentralCrops(open_data(run, "val"), run.data.crop)[index][0])
