"""`Scenes` on disk as VOC, COCO or class folders, so that code that reads these runs without a download. No torch.

The same scenes give the same files. A folder appears under its name only when all of it is written.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.command_line.progress import ProgressBars
from repro.data.annotations import coco, voc
from repro.data.processes import work_all
from repro.errors import UserError
from repro.filesystem.new_folders import new_folder
from repro.scenes.dataset import Scenes

JPEG_QUALITY = 95  # with colour in full resolution, so that edges stay where the masks have them

_SHARE_OF_2007 = voc.EXPECTED[str(voc.TRAIN[0])] / sum(voc.EXPECTED[str(image_set)] for image_set in voc.TRAIN)
_CHUNK = 16  # scenes handed to a drawing process at a time: the progress bar still moves


_Annotation = TypeVar("_Annotation")


def write_voc(root: Path, train: Scenes, test: Scenes, *, workers: int = 1) -> Path:
    """Writes scenes as a VOCdevkit, ready for VOC07+12 detection.

    The first 30 % of `train` become VOC2007 trainval, the others VOC2012 trainval (the shares that VOC has), and `test`
    becomes VOC2007 test. Boxes are 1-based and inclusive, as VOC's: `xmin = x0 + 1`, `xmax = x1`, so that a reader that
    subtracts one from the lower corner, as detectron2 does, gets the scene's exact box. `ImageSets/Main` also has a
    list for each class (`cat_trainval.txt`), by which `voc.class_names` knows the classes. Characters of a class name
    that no file name should have (spaces, slashes) become `-`.

    Args:
        root: The folder that will hold `VOC2007` and `VOC2012`; it must not exist, or be empty.
        train: At least 2 scenes.
        test: Scenes of the same classes.
        workers: The number of drawing processes.

    Returns:
        `root`.

    Raises:
        UserError: The folder is not empty or cannot be written to, `train` is too short, the classes of the two differ
            or become equal as file names, or a drawing process was killed.
    """
    _require_same_classes(train, test)
    if len(train) < 2:
        raise UserError(f"train has {len(train)} scene", mend="draw 2 at least, one for each year of VOC")
    classes = _file_names(train.classes)
    count_2007 = min(max(round(_SHARE_OF_2007 * len(train)), 1), len(train) - 1)
    # 2007's test lies in the same folder as its trainval, so its numbers continue those.
    image_sets = (
        (voc.TRAIN[0], train, range(count_2007), "{:06d}", 1),
        (voc.TRAIN[1], train, range(count_2007, len(train)), "2012_{:06d}", 1),
        (voc.TEST[0], test, range(len(test)), "{:06d}", count_2007 + 1),
    )
    with new_folder(root) as folder, ProgressBars() as progress:
        for image_set, scenes, indices, pattern, start in image_sets:
            year = folder / f"VOC{image_set.year}"
            names = [pattern.format(number) for number in range(start, start + len(indices))]
            write = partial(_write_voc_scene, scenes, year, classes)
            for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
                (year / name).mkdir(parents=True, exist_ok=True)
            labels = _write_all(write, indices, names, workers, progress, str(image_set))
            _write_image_sets(year / "ImageSets/Main", image_set.split, names, labels, classes)
    return root


def write_coco(root: Path, train: Scenes, val: Scenes, *, workers: int = 1) -> Path:
    """Writes scenes as COCO 2017: images, boxes and masks.

    Category ids are 1 to the number of classes. Masks are uncompressed RLEs, exact to the pixel; no object is a crowd.
    To train on them detectron2 needs `INPUT.MASK_FORMAT: bitmask` (`coco.check_layout` says so).

    Args:
        root: The folder that will hold `annotations`, `train2017` and `val2017`; it must not exist, or be empty.
        train: The scenes of `train2017`.
        val: The scenes of `val2017`, of the same classes.
        workers: The number of drawing processes.

    Returns:
        `root`.

    Raises:
        UserError: The folder is not empty or cannot be written to, the classes of the two differ, or a drawing process
            was killed.
    """
    _require_same_classes(train, val)
    first_image_id, object_ids = 1, itertools.count(1)  # the two splits share none
    with new_folder(root) as folder, ProgressBars() as progress:
        for split, scenes in zip(coco.SPLITS, (train, val), strict=True):
            names = [f"{number:012d}" for number in range(first_image_id, first_image_id + len(scenes))]
            (folder / split).mkdir()
            write = partial(_write_coco_scene, scenes, folder / split)
            objects = _write_all(write, range(len(scenes)), names, workers, progress, split)
            _write_instances(coco.annotation_file(folder, split), scenes, names, objects, object_ids)
            first_image_id += len(scenes)
    return root


def write_folders(root: Path, train: Scenes, val: Scenes, *, workers: int = 1) -> Path:
    """Writes scenes as class folders, and the mask of each training scene's main object, for `data.masks`.

    All are PNGs, exact to the pixel: `train/CLASS/NUMBER.png`, `val/CLASS/NUMBER.png` and `masks/CLASS/NUMBER.png`.

    Args:
        root: The folder that will hold `train`, `val` and `masks`; it must not exist, or be empty.
        train: The scenes of `train`.
        val: The scenes of `val`, of the same classes.
        workers: The number of drawing processes.

    Returns:
        `root`.

    Raises:
        UserError: The folder is not empty or cannot be written to, the classes of the two differ or become equal as
            file names, a class has no scene, or a drawing process was killed.
    """
    _require_same_classes(train, val)
    classes = _file_names(train.classes)
    for option, scenes in (("--train", train), ("--test", val)):
        if unseen := len(classes) - len(set(scenes.targets)):  # an empty class folder is refused when it is read
            what = f"{len(scenes)} scenes show nothing of {unseen} of {len(classes)} classes"
            raise UserError(what, mend=f"{option} {len(classes)} at least, or fewer classes")
    with new_folder(root) as folder, ProgressBars() as progress:
        for split, scenes, masks in (("train", train, folder / "masks"), ("val", val, None)):
            for parent, label in itertools.product(filter(None, (folder / split, masks)), set(scenes.targets)):
                (parent / classes[label]).mkdir(parents=True)
            names = [f"{classes[label]}/{number:06d}.png" for number, label in enumerate(scenes.targets)]
            write = partial(_write_scene_and_mask, scenes, folder / split, masks)
            _write_all(write, range(len(scenes)), names, workers, progress, split)
    return root


def rle(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Encodes a mask as COCO's uncompressed run-length code: lengths of runs of 0 and 1 in turn, down the columns.

    Args:
        mask: H×W bool.

    Returns:
        `counts`, the lengths, and `size`, [H, W].
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    # The first run is of 0 by definition; where the mask begins with 1 it has no length.
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def _write_scene_and_mask(scenes: Scenes, folder: Path, masks: Path | None, index: int, name: str) -> None:
    """Writes the image of one scene, and the mask of its main object where masks are kept."""
    scene = scenes.scene(index)
    scene.image.save(folder / name)
    if masks is not None:
        Image.fromarray(scene.instances[0].mask).save(masks / name)


def _write_voc_scene(scenes: Scenes, year: Path, classes: Sequence[str], index: int, name: str) -> set[int]:
    """Writes the image and the annotation of one scene; returns the labels on it."""
    scene = scenes.scene(index)
    _save_jpeg(scene.image, year / "JPEGImages" / f"{name}.jpg")
    tree = ElementTree.Element("annotation")
    for tag, text in (("folder", year.name), ("filename", f"{name}.jpg")):
        ElementTree.SubElement(tree, tag).text = text
    ElementTree.SubElement(ElementTree.SubElement(tree, "source"), "database").text = "salmask scenes"
    _add_numbers(ElementTree.SubElement(tree, "size"), width=scene.image.width, height=scene.image.height, depth=3)
    ElementTree.SubElement(tree, "segmented").text = "0"
    for instance in scene.instances:
        x0, y0, x1, y1 = instance.box
        element = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(element, "name").text = classes[instance.label]
        ElementTree.SubElement(element, "pose").text = "Unspecified"
        _add_numbers(element, truncated=0, difficult=0)
        # 1-based and inclusive: x0 + 1 is the first pixel, and the exclusive edge x1 is the number of the last.
        _add_numbers(ElementTree.SubElement(element, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    ElementTree.indent(tree, "\t")
    (year / "Annotations" / f"{name}.xml").write_text(
        ElementTree.tostring(tree, encoding="unicode") + "\n", encoding="utf-8"
    )
    return {instance.label for instance in scene.instances}


def _add_numbers(parent: ElementTree.Element, **values: int) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _write_image_sets(
    folder: Path, split: str, names: Sequence[str], labels: Sequence[set[int]], classes: Sequence[str]
) -> None:
    """Writes the list of a split, and one for each class that says which images show it (1) and which do not (-1)."""
    # As in VOC itself: `cat_trainval.txt` has every image of the split, and not only those that show a cat.
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    for label, class_name in enumerate(classes):
        lines = (f"{name} {1 if label in on_image else -1:2d}\n" for name, on_image in zip(names, labels, strict=True))
        (folder / f"{class_name}_{split}.txt").write_text("".join(lines), encoding="utf-8")


def _write_coco_scene(scenes: Scenes, folder: Path, index: int, name: str) -> list[dict[str, Any]]:
    """Writes the image of one scene; returns COCO's entries of its objects.

    The entries lack ids of object and image: processes that draw scenes side by side could not number them.
    """
    scene = scenes.scene(index)
    _save_jpeg(scene.image, folder / f"{name}.jpg")
    objects: list[dict[str, Any]] = []
    for instance in scene.instances:
        x0, y0, x1, y1 = instance.box
        objects.append(
            {
                "category_id": instance.label + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(instance.mask.sum()),
                "iscrowd": 0,
                "segmentation": rle(instance.mask),
            }
        )
    return objects


def _write_instances(
    path: Path, scenes: Scenes, names: Sequence[str], objects: Sequence[list[dict[str, Any]]], object_ids: Iterator[int]
) -> None:
    """Writes the annotations of a split; an image's id is its name, read as a number."""
    width, height = scenes.size(0)  # of every scene
    image = {"width": width, "height": height, "license": 1}
    content = {
        "info": {"description": "salmask scenes", "version": "1.0", "year": 2017},
        "licenses": [{"id": 1, "name": "drawn"}],
        "images": [{"id": int(name), "file_name": f"{name}.jpg", **image} for name in names],
        "annotations": [
            {"id": next(object_ids), "image_id": int(name), **entry}
            for name, entries in zip(names, objects, strict=True)
            for entry in entries
        ],
        "categories": [
            {"id": label, "name": name, "supercategory": name} for label, name in enumerate(scenes.classes, 1)
        ],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _save_jpeg(image: Image.Image, path: Path) -> None:
    image.save(path, quality=JPEG_QUALITY, subsampling=0)


def _write_all(
    write: Callable[[int, str], _Annotation],
    indices: Sequence[int],
    names: Sequence[str],
    workers: int,
    progress: ProgressBars,
    title: str,
) -> list[_Annotation]:
    """Writes scenes one by one, or chunks of them in several processes.

    Args:
        write: Draws and writes the scene of an index under a name; must be picklable.
        indices: The scenes' indices.
        names: The scenes' names.
        workers: The number of drawing processes.
        progress: Gets a bar of the scenes.
        title: The bar's title.

    Returns:
        What `write` returned for each scene, in order.

    Raises:
        UserError: A drawing process was killed.
    """
    return work_all(
        partial(_write_chunk, write),
        list(zip(indices, names, strict=True)),
        workers=workers,
        chunk=_CHUNK,
        name="drawing",
        advance=partial(progress.advance, progress.add_task(title, total=len(indices), unit="scenes")),
    )


def _write_chunk(write: Callable[[int, str], _Annotation], numbered: Sequence[tuple[int, str]]) -> list[_Annotation]:
    return [write(index, name) for index, name in numbered]


def _require_same_classes(train: Scenes, test: Scenes) -> None:
    if train.classes != test.classes:
        what = "the scenes to train and to test on have different classes"
        raise UserError(what, mend="draw both with the same settings")


def _file_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Turns class names into texts that may be part of a file's name.

    Raises:
        UserError: Two of them become equal.
    """
    names = tuple(re.sub(r"[^\w.+-]+", "-", name) for name in classes)
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two classes would both be named '{repeated}'", mend="rename one of the cut-outs")
    return names
