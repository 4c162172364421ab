"""An intact file of each kind that salmask writes and reads back, with its reader; drill and tests damage them.

The drill damages them by a seed, the tests by hypothesis.
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repro.runs.folder import RunFolder
from repro.settings.run import Run

Read = Callable[[Path], object]
_SHA = hashlib.sha256


@dataclass(frozen=True)
class OwnFile:
    """An intact file, and what reads it back."""

    content: bytes = field(repr=False)
    read: Read
    """Reads the file, which may have any name with the right suffix."""
    gist: Callable[[Any], object] | None = None
    """For a file with checksums: the gist of what was read. A changed file must have the same gist, or be refused."""


def own_files(place: Path) -> dict[str, OwnFile]:
    """Returns an intact file of each kind, by its name.

    Args:
        place: A folder to make some of them in.
    """
    return {
        **_of_a_run(place),
        **_of_weights(place),
        **_of_evaluations(place),
        **_of_sweeps(),
        **_of_data(),
    }


def _lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _beside(siblings: Mapping[str, bytes], name: str, read: Read) -> Read:
    """Returns a reader that puts a file into a folder by a given name, beside siblings, and reads that folder."""

    def read_folder(path: Path) -> object:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            for sibling, content in siblings.items():
                (Path(folder) / sibling).write_bytes(content)
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            os.link(path, Path(folder) / name)  # so that a pipe stays a pipe
            return read(Path(folder))

    return read_folder


def _of_a_run(place: Path) -> dict[str, OwnFile]:
    from repro.runs.health import Symptom, read_symptoms
    from repro.runs.metrics import read_metrics
    from repro.runs.predictions import FileReference
    from repro.runs.predictions import read as read_predictions
    from repro.runs.records import Result
    from repro.runs.resource_usage import Usage
    from repro.runs.schemas import ATTEMPT, USAGE
    from repro.runs.status import Status, read_status
    from repro.settings.reading import load
    from results.collection.collect import collect
    from results.collection.runs import RunRecord
    from results.plots.dose import covered

    result = Result(
        *("0" * 10, "0" * 10, "sweep", "mocov2", "mocov2", "none", "paper", 0, "linear", "scenes", "val"),
        *("linear-moco-v1", "top1", 50.0, "", "abc", False, "cpu", "2026-01-01T00:00:00+00:00", 1.0),
    )
    attempt = {
        **{"started": "2026-01-01T00:00:00+00:00", "commit": "abc", "dirty": False, "device": "cpu"},
        **{"packages": {"torch": "2"}, "data": {"train": "1"}, "machine": {"compile": False}, "arithmetic": {}},
    }
    predictions, reference = _predictions(place)
    return {
        "run.yaml": OwnFile(Run().to_yaml().encode(), load),
        "status.json": OwnFile(json.dumps(asdict(Status("done", "pretrain", 3, 9))).encode(), read_status),
        "provenance.json": OwnFile(json.dumps([attempt]).encode(), ATTEMPT.read_list),
        "usage.json": OwnFile(json.dumps([asdict(Usage(1.0, 2.0, 1.5, 2**20, 2))]).encode(), USAGE.read_list),
        "health.json": OwnFile(json.dumps([asdict(Symptom("collapse", 3, "rank 1", "x"))]).encode(), read_symptoms),
        "foregrounds.json": OwnFile(
            json.dumps({"query": {"mean IoU": 0.5}}).encode(),
            _beside({}, "foregrounds.json", lambda folder: covered(RunRecord(folder))),
        ),
        "metrics.jsonl": OwnFile(_lines({"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}), read_metrics),
        "results.jsonl": OwnFile(
            _lines(asdict(result), {**asdict(result), "seed": 1}), lambda path: collect([path.parent])
        ),
        "predictions.parquet": OwnFile(
            predictions,
            _beside(
                {},
                "predictions.parquet",
                lambda folder: read_predictions(RunFolder(folder), FileReference("predictions.parquet", reference)),
            ),
            repr,
        ),
    }


def _predictions(place: Path) -> tuple[bytes, str]:
    """Returns the content of a file of predictions, and its checksum."""
    import numpy as np

    from repro.runs.predictions import Predictions, write

    whole = np.arange(6, dtype=np.int32)
    predictions = Predictions(
        split=np.zeros_like(whole),
        image=whole,
        label=whole % 2,
        prediction=whole % 2,
        score=np.full(6, 0.5, np.float32),
        place=np.ones(6, np.uint8),
        classes=("cat", "dog"),
        images="0123456789abcdef",
    )
    named = write(place / "predictions.parquet", RunFolder(place), predictions)
    return (place / "predictions.parquet").read_bytes(), named.sha256


def _of_weights(place: Path) -> dict[str, OwnFile]:
    import torch
    from safetensors.torch import save

    from repro.backbones.backbone import load_backbone, save_backbone
    from repro.backbones.checkpoint import read_checkpoint
    from repro.backbones.foreign import read_foreign
    from repro.backbones.resnet import resnet_of_width
    from repro.backbones.tensors import read_tensors
    from repro.backbones.weights import weights_digest
    from repro.runs.schemas import CHECKPOINT
    from repro.settings.choices import InputFilter

    state = resnet_of_width("resnet18", 4).state_dict()
    run_id, path = "0" * 10, place / "backbone.pth"
    save_backbone(path, state, arch="resnet18", input_filter=InputFilter.none, run_id=run_id, width=4)
    checkpoint = {
        **{"format": 1, "run_id": "0" * 10, "step": 3, "epoch": 1, "world_size": 1},
        **{"model": {"weight": torch.ones(3)}, "optimizer": {}, "schedulers": [], "generators": [], "window": {}},
    }
    torch.save(checkpoint, place / "step.pth")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, place / "foreign.pth")
    return {
        "backbone.pth": OwnFile(
            (place / "backbone.pth").read_bytes(),
            load_backbone,
            lambda backbone: (backbone.run_id, weights_digest(backbone.network.state_dict())),
        ),
        "step.pth": OwnFile(
            (place / "step.pth").read_bytes(), lambda path: CHECKPOINT.verify(read_checkpoint(path), path), repr
        ),
        "foreign.pth": OwnFile(
            (place / "foreign.pth").read_bytes(), lambda path: read_foreign(path, "resnet18", width=4)
        ),
        "weights.safetensors": OwnFile(save({"conv1.weight": torch.ones(2, 3)}, {"format": "pt"}), read_tensors),
    }


def _of_evaluations(place: Path) -> dict[str, OwnFile]:
    import numpy as np

    from downstream.features import read_features
    from downstream.logistic import RegularisationPath, restored_fits, save_fits
    from results.report.pack import MANIFEST, check

    features = io.BytesIO()
    np.save(features, np.ones((3, 4), np.float32))
    path = RegularisationPath((0.5, 0.75), (True, False), np.ones((1, 3)), np.ones(1))
    save_fits(place / "fits.npz", "key", np.ones(2), path)
    train = np.ones((2, 3), np.float32), np.array([0, 1])
    artifact, table = io.BytesIO(), b"method,value\nmocov2,50\n" * 9
    with zipfile.ZipFile(artifact, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/results.csv", table)
        archive.writestr(MANIFEST, f"{_SHA(table).hexdigest()}  data/results.csv\n")
    return {
        "features.npy": OwnFile(features.getvalue(), lambda path: read_features(path, 3, 4)),
        "fits.npz": OwnFile(
            (place / "fits.npz").read_bytes(), lambda path: restored_fits(path, "key", np.ones(2), train)
        ),
        "artifact.zip": OwnFile(artifact.getvalue(), check),
    }


def _of_sweeps() -> dict[str, OwnFile]:
    from repro.bench.throughput import StepMeasurement, newest_measurements
    from slurm.jobs.calls import CALLS, indices_of, read_call
    from slurm.jobs.job import Call
    from slurm.jobs.orders import REPORT_ORDER, ordered_tables
    from slurm.planning.sweep import load as load_sweep
    from slurm.profiles.profile import load as load_profile
    from slurm.sweep_folder.ledger import CANCELS, Ledger, Submission

    submission = Submission("s", "slurm", "gpu", "0" * 10, "mocov2/s0-0000000000", "pretrain", "12", host="here")
    call = {**asdict(Call(Path("/runs"), "report", "repro.jobs:report", tables=("table1",))), "folder": "/runs"}
    measured = StepMeasurement(("mocov2", "224"), "mocov2", 800.0, 3000.0, 2**20, 2**19, "NVIDIA H100")
    sweep = b"methods: [mocov2]\nseeds: [0, 1]\ntasks: [linear]\ntable: [table1]\nsettings: {data.crop: 64}\n"
    profile = b"partition: gpu\ntime: 60\ngpus: 1\nsetup:\n- module load cuda\nextra:\n  begin: now\n"
    return {
        "jobs.jsonl": OwnFile(
            _lines(asdict(submission)), _beside({}, "jobs.jsonl", lambda folder: Ledger(folder).submissions())
        ),
        CANCELS: OwnFile(
            _lines({"time": "2026-11-22T10:00:00+00:00", "folder": "mocov2/s0-0000000000"}),
            _beside({}, CANCELS, lambda folder: Ledger(folder).cancel_requests()),
        ),
        CALLS: OwnFile(
            json.dumps({"kind": "task", "calls": {"0": call}}, indent=1).encode(),
            _beside({}, CALLS, lambda folder: (indices_of(folder), read_call(folder, 0))),
        ),
        REPORT_ORDER.name: OwnFile(
            json.dumps({"tables": ["table1"]}).encode(), _beside({}, str(REPORT_ORDER), ordered_tables)
        ),
        "sweep.yaml": OwnFile(sweep, lambda path: load_sweep(str(path))),
        "profile.yaml": OwnFile(profile, lambda path: load_profile(str(path))),
        "steps.jsonl": OwnFile(_lines(asdict(measured)), newest_measurements),
    }


_INSTANCES = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {
            **{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
            "segmentation": [[1, 1, 6, 1, 6, 6]],
        }
    ],
}
_VOC = (
    "<annotation><size><width>9</width><height>9</height><depth>3</depth></size><object><name>cat</name>"
    "<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    "</annotation>"
)


def _of_data() -> dict[str, OwnFile]:
    import numpy as np
    from PIL import Image

    from repro.data.annotations.coco_instances import read_instances
    from repro.data.annotations.voc_annotation import read_annotation
    from repro.data.images import decode
    from repro.data.pixel_cache import CHECKSUMS, INDEX, INDEX_FILE, MANIFEST, PIXELS, CachedImages
    from repro.data.pixel_cache_writer import read_checksums
    from repro.data.roots import read_roots

    rows, stream = np.zeros(3, INDEX), io.BytesIO()
    rows["height"], rows["width"], rows["offset"] = 2, 2, (0, 12, 24)
    np.save(stream, rows)
    cache = {
        PIXELS: b"\1" * 36,
        INDEX_FILE: stream.getvalue(),
        MANIFEST: json.dumps({"fingerprint": "ab", "side": 2, "images": 3, "bytes": 36, "classes": ["cat"]}).encode(),
    }

    def look_at_all(folder: Path) -> object:
        images = CachedImages(folder)
        return images.arrays(), [images.pixels(index) for index in range(len(images))]

    pictures = {}
    for suffix, kind in (("png", "PNG"), ("jpg", "JPEG")):
        stream = io.BytesIO()
        Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(stream, kind)
        pictures[f"picture.{suffix}"] = OwnFile(stream.getvalue(), decode)
    return {
        "instances.json": OwnFile(json.dumps(_INSTANCES).encode(), read_instances),
        "voc.xml": OwnFile(_VOC.encode(), read_annotation),
        "data.yaml": OwnFile(b"caltech101: /data/caltech\nimagenet: images\n", read_roots),
        CHECKSUMS: OwnFile(
            _lines({"chunk": 0, "crc32": 12}, {"chunk": 1, "crc32": 13}), _beside({}, CHECKSUMS, read_checksums)
        ),
        **{
            name: OwnFile(cache[name], _beside({key: cache[key] for key in cache if key != name}, name, look_at_all))
            for name in (INDEX_FILE, MANIFEST)
        },
        **pictures,
    }
