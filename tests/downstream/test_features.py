from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_samples import write_image
from torchvision import transforms
from training_samples import CPU, OURS, tiny, with_random_backbone

from downstream import features
from downstream.crops import CentralCrops, central_crops_of_rank
from downstream.features import FeatureStore
from downstream.tasks import evaluate
from repro.backbones.backbone import Backbone, load_backbone, save_backbone
from repro.data.folders import FolderImages
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.masking.filters import high_pass
from repro.runs.evaluation import PROTOCOLS
from repro.runs.folder import RunFolder
from repro.settings.run import Run
from repro.training.pretraining import open_data

RUN = tiny()


def store_of(folder: RunFolder, run: Run = RUN, *, channels_last: bool = False) -> FeatureStore:
    return FeatureStore.of(run, folder, CPU, "knn", channels_last=channels_last)


def direct(backbone: Backbone, size: int = 32) -> np.ndarray:
    """The validation features by torchvision's own transforms, one image at a time."""
    transform = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = open_data(RUN, "val")
    rows = []
    with torch.no_grad():
        for index in range(len(images)):
            image = transform(images[index][0]).unsqueeze(0)
            rows.append(backbone.network.eval()(high_pass(image) if backbone.input_filter == "high_pass" else image))
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("input_filter", ["none", "high_pass"])
@pytest.mark.parametrize("batch", [5, 256])
def test_features_match_direct_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input_filter: str, batch: int
) -> None:
    monkeypatch.setattr(features, "BATCH", batch)
    folder = with_random_backbone(RUN, tmp_path, input_filter)
    expected = direct(load_backbone(folder.backbone))
    stored = store_of(folder)(open_data(RUN, "val"))
    status = folder.status("knn")
    assert status is not None
    assert (status.step, status.steps) == (len(stored), len(stored))
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.linalg.norm(stored - expected) < 1e-5 * np.linalg.norm(expected)


def test_high_passed_backbones_see_high_passed_images(tmp_path: Path) -> None:
    val = open_data(RUN, "val")
    plain = store_of(with_random_backbone(RUN, tmp_path / "plain"))(val)
    filtered = store_of(with_random_backbone(RUN, tmp_path / "hp", "high_pass"))(val)
    assert np.linalg.norm(plain - filtered) / np.linalg.norm(plain) > 0.1


def test_at_the_papers_size_the_short_side_becomes_256_pixels() -> None:
    images = open_data(RUN, "val")
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    assert torch.equal(CentralCrops(images, 224)[3][0], theirs(images[3][0]))


def test_crops_can_be_copied_to_a_gpu_beside_its_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    assert central_crops_of_rank(open_data(RUN, "val"), 32, batch=4, workers=0).pin_memory


def test_ranks_share_the_crops_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("downstream.crops.world_size", lambda: 4)
    loaders = [central_crops_of_rank(open_data(RUN, "val"), 32, batch=batch, workers=0) for batch in (8, 2)]
    assert [loader.batch_size for loader in loaders] == [2, 1]


def test_the_memory_layout_of_a_training_changes_no_bit_of_its_features(tmp_path: Path) -> None:
    """Rounded in another order, two of the demo's thousand images change sides, and recorded numbers are missed."""
    val = open_data(RUN, "val")
    plain = store_of(with_random_backbone(RUN, tmp_path / "plain"))(val)
    last = tiny(changes={"machine.channels_last": True})
    assert np.array_equal(store_of(with_random_backbone(last, tmp_path / "last"), last)(val), plain)


def test_channels_last_in_memory_change_features_by_rounding_alone_and_are_kept_apart(tmp_path: Path) -> None:
    folder, val = with_random_backbone(RUN, tmp_path), open_data(RUN, "val")
    plain, last = FeatureStore.of(RUN, folder, CPU, "knn"), store_of(folder, channels_last=True)
    assert last.backbone.network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    departures = np.linalg.norm(last(val) - plain(val), axis=1) / np.linalg.norm(plain(val), axis=1)
    assert departures.max() < 1e-5
    # A measurement must not find the features of another layout or device.
    on_gpu = replace(plain, device=torch.device("cuda"))
    assert len({store.name(val) for store in (plain, last, on_gpu)}) == 3
    assert plain.digest == last.digest


@pytest.mark.parametrize(("task", "section"), [("linear", "probe"), ("logistic", "logistic"), ("knn", "knn")])
def test_channels_last_is_asked_for_by_a_setting_that_the_protocol_names(
    task: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`machine.channels_last` is a setting of trainings alone, and does not change how features are measured."""
    folder, asked = with_random_backbone(RUN, tmp_path), []

    def no_store(*_: Any, channels_last: bool) -> None:
        asked.append(channels_last)
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "of", no_store)
    for setting, named in (("machine.channels_last", False), (f"{section}.channels_last", True)):
        run = tiny(changes={setting: True, "knn.neighbours": [5]})
        (protocol,) = PROTOCOLS[task](run, "scenes")
        assert ("channels_last=1" in protocol.departures.split(",")) == named
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, folder, task, CPU)
    assert asked == [False, True]


def test_a_pool_is_seen_once_and_its_parts_are_rows_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    val = open_data(RUN, "val")
    all_rows = store_of(folder)(val)
    assert [path.parent.name for path in folder.path.rglob("*.npy")] == ["features"]
    monkeypatch.setattr(FeatureStore, "_compute", None)
    subset = Subset(val, [7, 3, 3])
    assert np.array_equal(store_of(folder)(subset), all_rows[[7, 3, 3]])
    assert np.array_equal(store_of(folder)(Subset(subset, [1])), all_rows[[3]])
    with pytest.raises(TypeError):
        store_of(folder)(open_data(RUN, "train"))


def test_a_file_is_read_once_for_all_parts_of_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    val = open_data(RUN, "val")
    expected, read, reads = store_of(folder)(val), features.read_features, []
    monkeypatch.setattr(features, "read_features", lambda path, *shape: reads.append(path) or read(path, *shape))
    store = store_of(folder)
    assert all(np.array_equal(store(Subset(val, [index])), expected[[index]]) for index in (3, 1, 2))
    assert reads == [store.path(val)]
    train = open_data(RUN, "train")
    store(train)
    store(val)
    # One pool is held: a large one takes gigabytes.
    assert reads == [store.path(images) for images in (val, train, val)]


def test_whatever_features_depend_on_changes_the_file(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path / "a")
    val, train = open_data(RUN, "val"), open_data(RUN, "train")
    store = store_of(folder)
    state = load_backbone(folder.backbone).network.state_dict()
    state["layer4.1.bn2.running_var"][0] += 1e-6
    nudged = with_random_backbone(RUN, tmp_path / "b")
    save_backbone(nudged.backbone, state, arch="resnet18", width=8, input_filter="none", run_id=RUN.id)
    paths = [
        store.path(val),
        store.path(train),
        replace(store, crop=64).path(val),
        store_of(nudged).path(val),
        store_of(with_random_backbone(RUN, tmp_path / "c", "high_pass")).path(val),
    ]
    assert len({path.name for path in paths}) == len(paths)
    larger = tiny(changes={"data.crop": 64})
    store_of_larger = store_of(with_random_backbone(larger, tmp_path / "e"), larger)
    assert store_of_larger.path(val).name == paths[2].name
    # The run itself does not matter: equal weights have equal features.
    masked_run = tiny(OURS)
    elsewhere = with_random_backbone(masked_run, tmp_path / "d")
    assert store_of(elsewhere, masked_run).path(val).name == paths[0].name


def test_images_with_the_names_and_sizes_of_others_have_another_file(tmp_path: Path) -> None:
    store = store_of(with_random_backbone(RUN, tmp_path / "runs"))
    for seed, split in enumerate(("train", "val")):
        write_image(tmp_path / split / "ant" / "0.bmp", seed)
    train, val = (FolderImages(tmp_path, split) for split in ("train", "val"))
    assert store.path(train) != store.path(val)


def test_the_name_of_features_knows_the_version_that_computes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, val = store_of(with_random_backbone(RUN, tmp_path)), open_data(RUN, "val")
    part = Subset(val, [3, 1])
    before = store.name(val), store.name(part)
    assert store.path(val).stem == before[0] != before[1]
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    assert not {store.name(val), store.name(part)} & set(before)


def test_features_of_older_versions_are_found_under_their_name(tmp_path: Path) -> None:
    """A setting that older versions lacked is no part of the name while it has its old value."""

    class Pool:
        def fingerprint(self) -> str:
            return "images"

    pool: Any = Pool()
    store = replace(store_of(with_random_backbone(RUN, tmp_path)), digest="weights")
    assert store.name(pool) == "eefbbb8a97aba4d6"
    others = (replace(store, channels_last=True), replace(store, device=torch.device("cuda")))
    assert len({store.name(pool), *(other.name(pool) for other in others)}) == 3


def test_all_ranks_look_for_the_same_file_whichever_gpu_is_theirs(tmp_path: Path) -> None:
    store, val = store_of(with_random_backbone(RUN, tmp_path)), open_data(RUN, "val")
    gpus = [torch.device("cuda"), torch.device("cuda", 0), torch.device("cuda", 1)]
    assert len({replace(store, device=gpu).path(val) for gpu in gpus}) == 1


def test_ranks_share_the_images_and_each_has_all_features_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, val = with_random_backbone(RUN, tmp_path), open_data(RUN, "val")
    expected, shares = store_of(folder)._compute(val), []
    monkeypatch.setattr("repro.processes.distributed.world_size", lambda: 3)
    for number in range(3):
        monkeypatch.setattr("repro.processes.distributed.rank", lambda number=number: number)
        monkeypatch.setattr(features, "gather", lambda local: shares.append(local) or local.repeat(3, 1))
        store_of(folder)._compute(val)
    assert [len(share) for share in shares] == [-(-len(val) // 3)] * 3
    monkeypatch.setattr(features, "gather", lambda _: torch.cat(shares))
    np.testing.assert_allclose(store_of(folder)._compute(val), expected, rtol=1e-4, atol=1e-6)


def test_features_are_written_by_the_first_rank_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, val = with_random_backbone(RUN, tmp_path), open_data(RUN, "val")
    monkeypatch.setattr(features, "rank", lambda: 1)
    store_of(folder)(val)
    assert not list(folder.path.rglob("*.npy"))


@pytest.mark.parametrize(
    "damage", ["torn", "empty", "other shape", "other width", "other type", "pickle", "archive", "nan"]
)
def test_a_damaged_file_is_computed_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    val = open_data(RUN, "val")
    store = store_of(folder)
    expected = store(val)
    path = store.path(val)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object))
    elif damage == "archive":
        with path.open("wb") as file:
            np.savez(file, expected)
    elif damage == "nan":
        np.save(path, np.full_like(expected, np.nan))
    elif damage == "other width":
        np.save(path, expected[:, :5])
    else:
        np.save(path, expected[:5] if damage == "other shape" else expected.astype(np.float64))
    assert np.array_equal(store_of(folder)(val), expected)
    assert f"{path} " in caplog.text
    assert "computed anew" in caplog.text
    assert "of object" not in caplog.text  # no pickle is loaded: it may run any code
    assert np.array_equal(np.load(path), expected)


def test_a_rank_that_cannot_read_the_first_ones_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to compute features, and waited for ranks that did not."""
    folder = with_random_backbone(RUN, tmp_path)
    store, val = store_of(folder), open_data(RUN, "val")
    store.path(val).parent.mkdir()
    store.path(val).write_bytes(b"torn")
    monkeypatch.setattr(features, "decided_by_first", lambda _: True)  # the decision on every other rank
    with pytest.raises(UserError, match=f"rank 0 on .* cannot read {store.path(val)}, which rank 0 reads; mend: look"):
        store(val)


def test_a_file_that_the_first_rank_reads_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, val = with_random_backbone(RUN, tmp_path), open_data(RUN, "val")
    expected = store_of(folder)(val)
    store = store_of(folder)
    there = store.path(val)
    hidden = there.rename(there.with_name("hidden"))
    monkeypatch.setattr(features, "decided_by_first", lambda _: True)  # the decision on every other rank
    monkeypatch.setattr(features, "await_file", hidden.rename)
    assert np.array_equal(store(val), expected)


def test_a_stop_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    images = open_data(RUN, "val")

    def stop(self: object, index: int) -> None:
        if index == 20:
            raise KeyboardInterrupt
        return honest(self, index)

    honest = type(images).__getitem__
    monkeypatch.setattr(type(images), "__getitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        store_of(folder)(images)
    assert not list(folder.path.rglob("*.npy"))


def test_weights_that_are_not_finite_are_refused_before_any_image(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    state = load_backbone(folder.backbone).network.state_dict()
    state["layer4.1.bn2.running_var"][:2] = -1.0
    save_backbone(folder.backbone, state, arch="resnet18", width=8, input_filter="none", run_id=RUN.id)
    with pytest.raises(UserError, match=r"layer4\.1\.bn2\.running_var: 2 of \d+ values are negative"):
        store_of(folder)


def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    state = load_backbone(folder.backbone).network.state_dict()
    state["conv1.weight"] *= 1e30  # finite weights, with infinite features
    state["bn1.weight"] *= 1e30
    save_backbone(folder.backbone, state, arch="resnet18", width=8, input_filter="none", run_id=RUN.id)
    val = open_data(RUN, "val")
    count = len(val)
    told = rf"the features of {count} of {count} images, image 0 first, are NaN .*; mend: take an earlier checkpoint"
    with pytest.raises(UserError, match=told):
        store_of(folder)(val)
    assert not list(folder.path.rglob("*.npy"))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_single_number_that_is_not_finite_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    store, val = store_of(with_random_backbone(RUN, tmp_path)), open_data(RUN, "val")
    rows = np.ones((len(val), 64), np.float32)
    rows[[2, 7], 5] = value
    monkeypatch.setattr(FeatureStore, "_compute", lambda *_: rows)
    with pytest.raises(UserError, match=rf"the features of 2 of {len(val)} images, image 2 first, are NaN or infinite"):
        store(val)


def test_a_backbone_that_tells_no_image_from_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its neighbours are those that come first: the resulting chance level used to be told without a warning."""
    run = tiny()
    store, images = store_of(with_random_backbone(run, tmp_path)), open_data(run, "train")
    monkeypatch.setattr(FeatureStore, "_compute", lambda *_: np.ones((len(images), 64), np.float32))
    store(images)
    store(images)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"all {len(images)} images have the same features: {store.folder.backbone} cannot tell images apart"
    caplog.clear()
    store_of(store.folder)(images)  # in a later process, which reads the file
    assert [record.getMessage() for record in caplog.records] == [line]
    caplog.clear()
    one_image, two_alike_and_two_others = np.zeros((1, 64)), np.repeat([0.0, 1.0], 2)[:, None].repeat(64, 1)
    for rows in (one_image, two_alike_and_two_others):
        monkeypatch.setattr(FeatureStore, "_compute", lambda *_, rows=rows: rows.astype(np.float32))
        replace(store, crop=30 + len(rows))(images)
    assert not caplog.records
