"""Images of a user's own class, after the first: each kind of mistake is one line that names the image."""

from typing import Any

import numpy as np
import pytest
import torch
from image_samples import make_folder_root
from PIL import Image
from training_samples import tiny

from downstream.crops import CentralCrops, RandomCrops
from repro.data.catalogue import open_images
from repro.data.splits import read_image
from repro.errors import UserError
from repro.processes.loader import Loader
from repro.settings.choices import Resizer
from repro.settings.sections import AugmentationSettings, ScenesSettings
from repro.training.batches.loading import TwoViews

PICTURE = Image.new("RGB", (40, 50))


class Own:
    """Eight images, number 5 of which is given by the test."""

    classes = ("a", "b")
    targets = (0, 1) * 4

    def __init__(self, odd: Any) -> None:
        self.odd = odd

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.odd if index == 5 else (PICTURE, self.targets[index])

    def fingerprint(self) -> str:
        return "own"


ODD = [
    ((Image.new("L", (40, 50)), 1), 'is of mode L, not RGB; mend: image.convert("RGB")'),
    ((Image.new("RGBA", (40, 50)), 1), 'is of mode RGBA, not RGB; mend: image.convert("RGB")'),
    ((Image.new("RGB", (0, 50)), 1), "is 0×50, without a pixel; mend: leave it out, or replace it"),
    (None, "is (NoneType); mend: a PIL image and its label, as a tuple"),
    (PICTURE, "is (Image); mend: a PIL image and its label, as a tuple"),
    ((PICTURE, 1, 1), "is (Image, int, int); mend: a PIL image and its label, as a tuple"),
    ((np.zeros((50, 40, 3), np.uint8), 1), "is (ndarray, int); mend: a PIL image and its label, as a tuple"),
    ((PICTURE, 7), "has the label 7, which no class has; mend: whole numbers from 0 to 1, the place of the class"),
    ((PICTURE, "a"), "has the label a, which no class has; mend: whole numbers from 0 to 1, the place of the class"),
    ((PICTURE, 0.5), "has the label 0.5, which no class has; mend: whole numbers from 0 to 1, the place of the class"),
    ((PICTURE, -1), "has the label -1, which no class has; mend: whole numbers from 0 to 1, the place of the class"),
]


@pytest.mark.parametrize(("odd", "line"), ODD)
def test_an_odd_image_beyond_the_first_is_named(odd: Any, line: str) -> None:
    """Unequal shapes used to be told as a fault of salmask's own; bad labels and empty images were trained on."""
    views = TwoViews(Own(odd), 32, tiny().augmentation, seed=0)
    for read in (
        lambda: views[0, 5],
        lambda: RandomCrops(Own(odd), 32, 0)[0, 5],
        lambda: CentralCrops(Own(odd), 32)[5],
    ):
        with pytest.raises(UserError) as refusal:
            read()
        assert str(refusal.value).startswith(f"image 5 of Own {line}")
    assert views[0, 4]["query"].shape == (3, 32, 32)


def test_in_a_decoding_process_it_is_the_same_line() -> None:
    loader = Loader(TwoViews(Own(ODD[0][0]), 32, tiny().augmentation, seed=0), workers=1, batch_sampler=[[(0, 5)]])
    with pytest.raises(UserError, match="image 5 of Own is of mode L, not RGB"):
        next(iter(loader))


def test_sound_images_come_as_they_are(tmp_path: Any) -> None:
    images = open_images("folder", "train", make_folder_root(tmp_path / "data"), ScenesSettings())
    image, label = read_image(images, 3)
    expected, target = images[3]
    assert (image.tobytes(), label) == (expected.tobytes(), target)
    settings = AugmentationSettings(resizer=Resizer.torch)
    assert TwoViews(images, 32, settings, seed=0)[0, 3]["key"].dtype == torch.uint8
