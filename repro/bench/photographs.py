"""The photographs of the input benchmark: a person's own JPEGs, or some that are at hand everywhere."""

from pathlib import Path

from PIL import Image

from repro.data.errors import PathError
from repro.data.folders import FileImages, image_files
from repro.randomness import Purpose, stream
from repro.scenes.dataset import Scenes

SIZE = (500, 375)
"""Width and height in pixels of the built-in photographs, those of most of ImageNet's."""
QUALITY = 92


def write_photographs(folder: Path, count: int) -> tuple[FileImages, str]:
    """Writes JPEGs of 500×375 pixels: parts of scikit-learn's two photographs, or scenes where that is missing.

    Args:
        folder: Where they go.
        count: How many.

    Returns:
        The files, and what they show.
    """
    try:
        from sklearn.datasets import load_sample_images

        originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
        described = "parts of scikit-learn's photographs"
    except ImportError:
        scenes = Scenes("train", count=4, size=512)
        originals, described = [scenes[index][0] for index in range(4)], "scenes, as scikit-learn is not installed"
    folder.mkdir(parents=True)
    files = [f"{index}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        original = originals[index % len(originals)]
        rng = stream(0, Purpose.view, 0, index)
        share = rng.uniform(0.8, 1.0)
        width, height = (round(share * side) for side in original.size)
        left, top = (int(rng.integers(room + 1)) for room in (original.width - width, original.height - height))
        part = original.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.LANCZOS)
        part.save(folder / file, quality=QUALITY)
    return FileImages(folder, files, [0] * count, ["photograph"]), f"{described}, {SIZE[0]}×{SIZE[1]}, q {QUALITY}"


def find_photographs(folder: Path, count: int) -> FileImages:
    """Returns the first JPEGs in a folder and below.

    Raises:
        UserError: It cannot be read, or holds none.
    """
    files = [file for file in image_files(folder) if file.lower().endswith((".jpg", ".jpeg"))][:count]
    if not files:
        raise PathError(folder, "there is no JPEG", mend="name a folder of photographs")
    return FileImages(folder, files, [0] * len(files), ["photograph"])
