"""What a classifier says of each scored image, as a Parquet file beside the results that it explains. No torch.

`predictions/TASK-DATASET-PROTOCOL.parquet` in a run's folder has a row for each scored image and, in its metadata, the
names of the classes. Rows of results name the file with its checksum (`Result.predictions`). The file is written before
them, so that a row always names a whole file; a file that was lost or altered since is refused when it is read.
"""

import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from repro.errors import UserError, one_line
from repro.filesystem.files import read_regular, write_bytes
from repro.filesystem.presence import is_file
from repro.runs.folder import RunFolder

PREDICTIONS = "predictions"
"""Folder below a run's."""
BEST = 5
"""Ranks that are told apart; top-5 needs no more."""
_METADATA = b"salmask"
"""Key of the Parquet file's metadata."""
_COLUMNS: Mapping[str, pa.DataType] = {
    "split": pa.int32(),
    "image": pa.int32(),
    "label": pa.int32(),
    "prediction": pa.int32(),
    "score": pa.float32(),
    "place": pa.uint8(),
    "correct": pa.bool_(),
}
# 25 to 32 kB for 5,000 images of 100 classes, half of what Parquet's defaults take: image indices ascend, and only the
# leading bytes of scores are alike.
_ENCODING = {
    "compression": "zstd",
    "compression_level": 9,
    "use_dictionary": ["split", "label", "prediction", "place"],
    "column_encoding": {"image": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"},
}
_AGAIN = (
    "evaluate the run again where its backbone is; until then the row counts, but cannot be compared image by image"
)


@dataclass(frozen=True)
class FileReference:
    """A file that a row of results names.

    Attributes:
        name: The file's path below the run's folder, with slashes.
        sha256: Checksum of its content, 64 hex digits.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of N scored images; those of several drawn splits stand one split after the other.

    Attributes:
        split: N, seed of the drawn split that the image is scored in; 0 where the data set has a split of its own.
        image: N, index of the image in its data set or pool.
        label: N, index of its class.
        prediction: N, index of the likeliest class.
        score: N, probability that the classifier gives to it; for nearest neighbours its share of the votes.
        place: N, place of the label among the `BEST` likeliest classes, from 1; 0 where it is none of them.
        classes: Names of the classes.
        images: Fingerprint of the scored images: only predictions of the same images can be paired.
    """

    split: NDArray[np.int32]
    image: NDArray[np.int32]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    score: NDArray[np.float32]
    place: NDArray[np.uint8]
    classes: tuple[str, ...]
    images: str

    def __len__(self) -> int:
        return len(self.image)

    def correct(self, metric: str = "top1") -> NDArray[np.bool_]:
        """Returns N, whether an image counts as right.

        Args:
            metric: `top5`: the label is among the `BEST` likeliest classes; any other: it is the likeliest.
        """
        return self.place > 0 if metric == "top5" else self.place == 1

    def weights(self, metric: str = "top1") -> NDArray[np.float64]:
        """Returns N weights, which sum to 1, with which the images' correctness adds up to the accuracy.

        All splits count alike. Within a split, all images do for `top1` and `top5`, and all classes for
        `mean_per_class`.
        """
        weights = np.zeros(len(self))
        splits = np.unique(self.split)
        for split in splits:
            inside = self.split == split
            if metric == "mean_per_class":
                sizes = np.bincount(self.label[inside], minlength=len(self.classes))
                weights[inside] = 1 / sizes[self.label[inside]] / np.count_nonzero(sizes)
            else:
                weights[inside] = 1 / np.count_nonzero(inside)
        return weights / len(splits)

    def points(self, metric: str = "top1") -> NDArray[np.float64]:
        """Returns M, the percentage points that each distinct image adds to the accuracy, by ascending index.

        An image that several drawn splits score is one image: what it adds in each of them is summed.
        """
        earned = 100 * self.weights(metric) * self.correct(metric)
        points: NDArray[np.float64] = np.bincount(self._place, weights=earned).astype(np.float64)
        return points

    def accuracy(self, metric: str = "top1") -> float:
        """Returns `top1`, `top5` or `mean_per_class` in percent, as the mean over the splits."""
        return float(100 * self.weights(metric) @ self.correct(metric))

    @cached_property
    def _place(self) -> NDArray[np.intp]:
        """N, the place of each scored image among the distinct ones, which ascend."""
        place: NDArray[np.intp] = np.unique(self.image, return_inverse=True)[1]
        return place

    @property
    def drawn_splits(self) -> int:
        """Number of splits that images are scored in; 1 where the data set has a split of its own."""
        return len(np.unique(self.split))


def joined(splits: list[Predictions]) -> Predictions:
    """Joins the predictions of drawn splits, which are numbered from 0 in their order."""
    if len(splits) == 1:
        return splits[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in splits])
        for name in ("image", "label", "prediction", "score", "place")
    }
    numbers = np.repeat(np.arange(len(splits), dtype=np.int32), [len(part) for part in splits])
    images = images_of_splits([part.images for part in splits])
    return Predictions(split=numbers, classes=splits[0].classes, images=images, **arrays)


def images_of_splits(fingerprints: Sequence[str]) -> str:
    """Returns the fingerprint of all scored images, from that of each drawn split; of a single split, its own."""
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256(json.dumps(list(fingerprints)).encode()).hexdigest()[:16]


def path_of_predictions(folder: RunFolder, task: str, dataset: str, protocol: str) -> Path:
    """Returns where an evaluation's predictions are kept."""
    return folder.path / PREDICTIONS / f"{task}-{dataset}-{protocol}.parquet"


def write(path: Path, folder: RunFolder, predictions: Predictions) -> FileReference:
    """Writes predictions, whole or not at all.

    Args:
        path: The path that `path_of_predictions` returns.
        folder: The run's folder.
        predictions: The predictions to keep.

    Returns:
        What a row of results is to name.

    Raises:
        UserError: The file cannot be written.
    """
    table = pa.table(
        {
            name: pa.array(predictions.correct() if name == "correct" else getattr(predictions, name), kind)
            for name, kind in _COLUMNS.items()
        }
    )
    about = {"classes": predictions.classes, "images": predictions.images}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(about)}), buffer, **_ENCODING)
    content = buffer.getvalue()
    write_bytes(path, content)
    return reference(path, folder, content)


def reference(path: Path, folder: RunFolder, content: bytes) -> FileReference:
    """Returns the reference to a file with this content, for a row of results."""
    return FileReference(path.relative_to(folder.path).as_posix(), hashlib.sha256(content).hexdigest())


def is_whole(folder: RunFolder, named: FileReference) -> bool:
    """Returns whether a file that a row of results names is there and unchanged."""
    path = folder.path / named.name
    return is_file(path) and hashlib.sha256(path.read_bytes()).hexdigest() == named.sha256


def read_images(path: Path) -> str:
    """Returns the fingerprint of the images that a file's predictions are of, without reading the predictions.

    Args:
        path: The file.

    Returns:
        The fingerprint; empty if there is no such file, or this version cannot read it.
    """
    if not is_file(path):
        return ""
    try:
        return str(json.loads(pq.read_metadata(path).metadata[_METADATA])["images"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return ""


def read(folder: RunFolder, named: FileReference) -> Predictions:
    """Reads the predictions that a row of results names.

    Args:
        folder: The run's folder.
        named: The file that the row names.

    Raises:
        UserError: The file is missing, was changed since it was written, or cannot be read.
    """
    path = folder.path / named.name
    try:
        content = read_regular(path, sys.maxsize)
    except OSError as error:
        raise UserError(
            f"{path}, which a row of results names, cannot be read: {error.strerror}", mend=_AGAIN
        ) from None
    if hashlib.sha256(content).hexdigest() != named.sha256:
        raise UserError(f"{path} was changed since it was written: its checksum is not the row's", mend=_AGAIN)
    try:
        table = pq.read_table(io.BytesIO(content))
        about = json.loads(table.schema.metadata[_METADATA])
        columns = {name: table[name].to_numpy() for name in _COLUMNS if name != "correct"}
        return Predictions(**columns, classes=tuple(about["classes"]), images=str(about["images"]))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no predictions that this version reads: {one_line(error)}", mend=_AGAIN
        ) from None
