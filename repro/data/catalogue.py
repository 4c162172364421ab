"""The data sets: how their images lie in a folder, which classes they have, and how a split is opened.

Adding a data set is adding one entry to `DATASETS`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.data import caltech, flowers, imagenet
from repro.data.annotations import archives as detection_archives
from repro.data.annotations import coco, voc
from repro.data.annotations.findings import Survey
from repro.data.archives import Preparer
from repro.data.errors import PathError
from repro.data.folders import FOLDER_FOR_EACH_CLASS, FolderImages, class_folders
from repro.data.splits import SPLITS, Images, Split, require_images
from repro.data.subsets import join
from repro.errors import UserError, nearest, shortened
from repro.scenes.cache import scenes_cache
from repro.scenes.dataset import Scenes
from repro.settings.sections import ScenesSettings

Opener = Callable[["Dataset", Split, Path | None, ScenesSettings], Images]
"""Opens a split of a data set, given its entry, its root (None where it has none) and the built-in scenes' settings."""


@dataclass(frozen=True)
class Dataset:
    """All that is known of one data set before anything of it is read.

    Attributes:
        name: The name by which a run's `data.dataset` asks for it.
        title: What it is, in a few words.
        layout: Where its files lie; one paragraph.
        open: Opens a split of it.
        needs_root: Whether it is read from a folder.
        generated: Whether its images are drawn rather than read.
        classes: Class folders in the order of their labels; None: known only from the root or the settings.
        expected: Images of a split in the published data set, where known. A mismatch is worth a warning, no more.
        root_names: Names under which its root is looked up, the best one first; none given: its own name.
        mend: What to do about a root that has another layout.
        prepare: Makes the root from the published archives; None: there is nothing to prepare.
        parts: Opens the published parts by name, for data sets whose splits are no folders; `verify` checks these.
        survey: Reads the annotations of a data set of annotated objects, for `verify`.
        find: Refuses a root that lacks a part of a data set of annotated objects, without reading the annotations. Data
            sets with the same `find` share a layout and a task of detection.
    """

    name: str
    title: str
    layout: str
    open: Opener
    needs_root: bool = True
    generated: bool = False
    classes: tuple[str, ...] | None = None
    expected: Mapping[str, int] = field(default_factory=dict)
    root_names: tuple[str, ...] = ()
    mend: str = FOLDER_FOR_EACH_CLASS
    prepare: Preparer | None = None
    parts: Callable[[Path], Mapping[str, Images]] | None = None
    survey: Callable[[Path], Survey] | None = None
    find: Callable[[Path], object] | None = None

    def __post_init__(self) -> None:
        """Sets `root_names` to the entry's own name where none are given."""
        if not self.root_names:
            object.__setattr__(self, "root_names", (self.name,))

    @property
    def in_class_folders(self) -> bool:
        """Whether each split is a folder that has a folder for each class."""
        return self.open is _open_folder

    def images(self, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
        """Opens a split; see `open_images`, which keeps scenes once they are drawn."""
        return self.open(self, split, root, scenes)


def find_dataset(name: str) -> Dataset:
    """Returns the entry of a data set.

    Args:
        name: The data set's name.

    Raises:
        UserError: There is none of that name; the mend says the nearest one.
    """
    if name not in DATASETS:
        mend = nearest(name, DATASETS)
        if "/" in name or os.path.isdir(name):  # noqa: PTH112  # answers for any text
            mend = f"give its name, and the folder as its root (`folder` is your own images): {mend}"
        raise UserError(f"unknown data set {name!r}", mend=mend)
    return DATASETS[name]


def open_images(dataset: str, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    """Opens one split of a data set.

    Args:
        dataset: The data set's name.
        split: `train` or `val`.
        root: The data set's folder, from `repro.data.roots.find_root`.
        scenes: Settings of the built-in scenes; other data sets ignore them. Scenes are drawn once and then kept in
            `scenes_cache`.

    Raises:
        UserError: The name is unknown, the root is missing, or it lacks the split or a class.
    """
    entry = find_dataset(dataset)
    images = entry.images(split, root if entry.needs_root else None, scenes)
    require_images(f"data set {dataset!r}, split {split}", images)
    # Here rather than in the openers: `data verify` needs scenes that are drawn anew.
    if isinstance(images, Scenes):
        images.keep(scenes_cache())
    return images


def require_usable(dataset: str, root: Path) -> None:
    """Refuses a root that cannot be used, as far as listing its files shows; `salmask data verify` reads them.

    Args:
        dataset: The data set's name.
        root: Its folder. Cut-outs are not checked, because the settings of a run say which ones it needs.

    Raises:
        UserError: The root has another layout, or lacks a split, a class or a list.
    """
    entry = find_dataset(dataset)
    if entry.find is not None:
        entry.find(root)
    elif entry.parts is not None:
        entry.parts(root)
    elif not entry.generated:
        for split in SPLITS:
            entry.images(split, root, ScenesSettings())


def required_root(root: Path | None) -> Path:
    """Returns the root of a data set that cannot do without one.

    Raises:
        UserError: None was given.
    """
    if root is None:
        raise UserError("this data set is read from a folder, and none was given", mend="give machine.data_root=DIR")
    return root


def _open_folder(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    root, classes = required_root(root), entry.classes
    if classes is None:
        # The training classes number the labels of both splits: a class that val lacks must not shift the others.
        classes = tuple(class_folders(root / "train", mend=entry.mend))
        extra = sorted(set(class_folders(root / split, mend=entry.mend)) - set(classes))
        if extra:
            reason = f"class folders that are not in train: {shortened(extra)}"
            raise PathError(root / split, reason, mend="add or remove them")
    return FolderImages(root, split, classes=classes, mend=entry.mend)


def _open_caltech(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    # No split was ever published: one fixed draw stands for it.
    fit, held_out, rest = caltech.split(caltech.open_pool(required_root(root)), seed=0)
    return join(fit, held_out) if split == "train" else rest


def _open_flowers(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    train, val, _ = flowers.official(required_root(root))
    return train if split == "train" else val


def _open_annotated(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    # The entry exists so that the data set can be prepared and verified; detection reads its files by itself.
    raise UserError(
        "images with annotated objects have no single class to learn or to score",
        mend="use them by `salmask eval RUN --task voc07+12` or `--task coco`",
    )


def _open_cutouts(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    return _open_scenes(entry, split, required_root(root), scenes)


def _open_scenes(entry: Dataset, split: Split, root: Path | None, scenes: ScenesSettings) -> Images:
    return Scenes.by_settings(split, scenes, cutouts=root)


DATASETS: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            name="imagenet100",
            title="ImageNet-100 (CMC's 100 classes of ImageNet-1k)",
            layout="an ordinary ImageNet-1k root, train/WNID/*.JPEG and val/WNID/*.JPEG; only the 100 classes are read",
            open=_open_folder,
            classes=imagenet.class_list(),
            # The training count as the literature on this class list gives it.
            expected={"train": 126_689, "val": imagenet.VAL_EACH * len(imagenet.class_list())},
            root_names=("imagenet100", "imagenet"),  # a whole ImageNet-1k serves too, of which the 100 are read
            mend="unpack with `salmask data prepare imagenet100 --from ARCHIVES`",
            prepare=imagenet.prepare_imagenet100,
        ),
        Dataset(
            name="caltech101",
            title="Caltech-101, for evaluation",
            layout="caltech101/101_ObjectCategories/CLASS/image_0001.jpg, as torchvision keeps it",
            open=_open_caltech,
            expected={"all": caltech.EXPECTED},
            mend=caltech.MEND,
            prepare=caltech.prepare_caltech101,
            parts=lambda root: {"all": caltech.open_pool(root)},
        ),
        Dataset(
            name="flowers102",
            title="Oxford Flowers-102, for evaluation",
            layout="flowers-102/jpg/image_00001.jpg, imagelabels.mat and setid.mat, as torchvision keeps it",
            open=_open_flowers,
            expected=flowers.OFFICIAL,
            root_names=("flowers102", "flowers-102"),
            mend=flowers.MEND,
            prepare=flowers.prepare_flowers102,
            parts=lambda root: dict(zip(flowers.OFFICIAL, flowers.official(root), strict=True)),
        ),
        Dataset(
            name="voc07+12",
            title="PASCAL VOC 2007 + 2012",
            layout="VOCdevkit/VOC2007 and VOCdevkit/VOC2012, each with Annotations, ImageSets/Main and JPEGImages",
            open=_open_annotated,
            classes=voc.CLASSES,
            expected=voc.EXPECTED,
            root_names=("voc07+12", "voc", "VOCdevkit"),
            mend="unpack with `salmask data prepare voc07+12 --from ARCHIVES`",
            prepare=detection_archives.prepare_voc,
            survey=voc.survey_published,
            find=voc.require_lists,
        ),
        Dataset(
            name="coco",
            title="COCO 2017",
            layout="train2017/, val2017/ and annotations/instances_train2017.json, instances_val2017.json",
            open=_open_annotated,
            expected=coco.EXPECTED,
            mend="unpack with `salmask data prepare coco --from ARCHIVES`",
            prepare=detection_archives.prepare_coco,
            survey=coco.survey_published,
            find=coco.require_parts,
        ),
        Dataset(
            name="folder",
            title="your own images",
            layout="train/CLASS/**/IMAGE and val/CLASS/**/IMAGE, the same classes in both",
            open=_open_folder,
        ),
        Dataset(
            name="scenes",
            title="built-in scenes, drawn shapes",
            layout="no files: every image is drawn from the seed, with its class, box and mask",
            open=_open_scenes,
            needs_root=False,
            generated=True,
        ),
        Dataset(
            name="scenes-cutouts",
            title="built-in scenes, pasted cut-outs",
            layout="PNG files with transparency, in any folders; scenes are composed from them, every file a class, or "
            "with data.scenes.members every folder",
            open=_open_cutouts,
            generated=True,
            mend="name a folder of PNG files with transparency",
        ),
    )
}
