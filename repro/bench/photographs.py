"""The photographs of benchmarks: a user's own, or some that are available everywhere."""

from pathlib import Path

from PIL import Image

from repro.data.errors import PathError
from repro.data.folders import FileImages, image_files
from repro.filesystem.presence import is_folder
from repro.randomness import Purpose, stream
from repro.scenes.dataset import Scenes

SIZE = (500, 375)
"""Width and height in pixels of the built-in photographs; most of ImageNet's have these."""
QUALITY = 92
_MEND = "name a folder of photographs"


def write_photographs(folder: Path, count: int) -> tuple[FileImages, str]:
    """Writes JPEGs of 500×375 pixels: parts of scikit-learn's two photographs, or scenes if it is not installed.

    Args:
        folder: The folder for them; it must not exist.
        count: How many to write.

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


def find_photographs(folder: Path, count: int | None = None, *, jpegs: bool = False) -> FileImages:
    """Returns the images in a folder and below.

    Args:
        folder: A folder of files; those in formats that cannot be read are skipped.
        count: How many at most; None: all.
        jpegs: Whether JPEGs alone count.

    Raises:
        UserError: There is no such folder, it cannot be read, or it holds no image (or JPEG).
    """
    if not is_folder(folder):
        raise PathError(folder, "no such folder", mend=_MEND)
    files = [file for file in image_files(folder) if not jpegs or file.lower().endswith((".jpg", ".jpeg"))][:count]
    if not files:
        raise PathError(folder, f"there is no {'JPEG' if jpegs else 'image'}", mend=_MEND)
    return FileImages(folder, files, [0] * len(files), ["all"])
