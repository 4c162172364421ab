"""Batches are a function of seed, epoch and step, and items one of seed, epoch and index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import repro.training.batches.loading
from repro.augmentation.on_device import apply_on_device
from repro.errors import UserError
from repro.settings.choices import Backend
from repro.settings.sections import AugmentationSettings
from repro.training.batches.loading import EpochBatches, TwoViews, make_loader


class Pictures:
    """A few noisy pictures in memory."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.pictures = [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]
        self.classes, self.targets = ["even", "odd"], [i % 2 for i in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pictures[index], self.targets[index]

    def fingerprint(self) -> str:
        return "pictures"


def of_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(repro.training.batches.loading, "rank", lambda: rank)
    monkeypatch.setattr(repro.training.batches.loading, "world_size", lambda: world)


def epoch_of(batches: EpochBatches, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
    batches.seek(epoch, start)
    return list(batches)


def indices(batches: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for _, index in batch]


def test_an_epoch_shows_every_image_once_and_names_itself() -> None:
    batches = EpochBatches(24, 4, seed=0)
    for epoch in (0, 7):
        made = epoch_of(batches, epoch)
        assert len(made) == len(batches) == 6
        assert sorted(indices(made)) == list(range(24))
        assert {e for batch in made for e, _ in batch} == {epoch}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [indices(epoch_of(EpochBatches(24, 4, seed=s), e)) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders} | {tuple(range(24))}) == 5
    assert orders[1] == indices(epoch_of(EpochBatches(24, 4, seed=0), 1))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_an_epoch_is_taken_up_at_any_step(start: int, drop_last: bool) -> None:
    whole = epoch_of(EpochBatches(22, 4, seed=3, drop_last=drop_last), 2)
    assert epoch_of(EpochBatches(22, 4, seed=3, drop_last=drop_last), 2, start) == whole[start:]


def test_what_does_not_fill_a_batch_is_left_out_or_comes_last() -> None:
    dropped = epoch_of(EpochBatches(10, 4, seed=0), 0)
    assert [len(batch) for batch in dropped] == [4, 4]
    kept = EpochBatches(10, 4, seed=0, drop_last=False)
    made = epoch_of(kept, 0)
    assert [len(batch) for batch in made] == [4, 4, 2]
    assert made[:2] == dropped
    assert sorted(indices(made)) == list(range(10))
    assert len(kept) == 3


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_a_single_process(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    alone = epoch_of(EpochBatches(30, 8, seed=1), 1)
    shares = []
    for rank in range(world):
        of_rank(monkeypatch, rank, world)
        shares.append(epoch_of(EpochBatches(30, 8, seed=1), 1))
    together = [[item for share in step for item in share] for step in zip(*shares, strict=True)]
    assert together == alone
    assert all(len(batch) == 8 // world for share in shares for batch in share)


@pytest.mark.parametrize(("count", "world"), [(30, 4), (29, 4), (17, 4), (9, 2), (16, 4), (33, 4)])
def test_uneven_last_batches_are_filled_up_from_the_epochs_beginning(
    monkeypatch: pytest.MonkeyPatch, count: int, world: int
) -> None:
    order = indices(epoch_of(EpochBatches(count, 8, seed=1, drop_last=False), 0))
    shares = []
    for rank in range(world):
        of_rank(monkeypatch, rank, world)
        shares.append(epoch_of(EpochBatches(count, 8, seed=1, drop_last=False), 0))
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1  # no rank waits for another
    together = [index for step in zip(*shares, strict=True) for share in step for _, index in share]
    assert together == order + order[: -count % world]


def test_too_little_data_for_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"a batch of 8 is larger than the data \(7 images\); mend: a smaller"):
        EpochBatches(7, 8, seed=0)
    assert len(EpochBatches(8, 8, seed=0)) == 1
    assert [len(batch) for batch in EpochBatches(7, 8, seed=0, drop_last=False)] == [7]


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of_rank(monkeypatch, 0, 3)
    with pytest.raises(UserError, match="a batch of 8 cannot be shared by 3 processes; mend: a multiple of 3"):
        EpochBatches(30, 8, seed=0)


def two_views(seed: int = 0, backend: Backend = Backend.device) -> TwoViews:
    return TwoViews(Pictures(12), 16, AugmentationSettings(backend=backend), seed)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])) for name in a)


def test_an_item_is_two_crops_with_their_draws() -> None:
    item = two_views()[(3, 5)]
    of_views = {f"{name}{part}" for name in ("query", "key") for part in ("", "_box", "_draw")}
    assert set(item) == of_views | {"size", "epoch", "index", "label"}
    assert (item["epoch"], item["index"], item["label"]) == (3, 5, 1)
    for name in ("query", "key"):
        assert item[name].shape == (3, 16, 16)
        assert item[name].dtype == torch.uint8
        assert item[f"{name}_draw"].shape == (9,)
        assert (item[f"{name}_box"].shape, item[f"{name}_box"].dtype) == ((4,), torch.int32)
    assert item["size"].tolist() == [20, 24]
    assert not torch.equal(item["query"], item["key"])
    assert not torch.equal(item["query_draw"], item["key_draw"])


def test_a_view_shows_its_box_of_the_image() -> None:
    views = two_views()
    for index in range(12):
        item = views[(0, index)]
        for name in ("query", "key"):
            top, left, height, width = item[f"{name}_box"].tolist()
            cut = views.images[index][0].crop((left, top, left + width, top + height))
            expected = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR))
            assert np.array_equal(item[name].permute(1, 2, 0).numpy(), expected)


def test_an_item_follows_from_seed_epoch_and_index_alone() -> None:
    views = two_views()
    first = views[(1, 4)]
    _ = views[(0, 3)], torch.rand(1), np.random.default_rng().random()
    assert same(first, views[(1, 4)])
    assert same(first, two_views()[(1, 4)])
    for other in (views[(2, 4)], two_views(seed=1)[(1, 4)]):
        assert not torch.equal(first["query_draw"], other["query_draw"])
        assert not torch.equal(first["query"], other["query"])


def test_all_draws_of_an_epoch_differ() -> None:
    views = two_views()
    rows = torch.stack(
        [views[(epoch, i)][f"{n}_draw"] for epoch in (0, 1) for i in range(12) for n in ("query", "key")]
    )
    assert len(rows[:, 2:6].unique(dim=0)) == 48


def test_the_number_of_workers_changes_no_batch() -> None:
    def load(workers: int) -> list[dict[str, Any]]:
        batches = EpochBatches(12, 4, seed=2)
        loader = make_loader(two_views(), batches, workers)
        made = list(loader)
        batches.seek(1, 1)
        return made + list(loader)

    alone, shared = load(0), load(2)
    assert len(alone) == len(shared) == 5
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert alone[0]["query"].shape == (4, 3, 16, 16)


def test_both_backends_crop_alike_and_draw_the_same() -> None:
    for index in range(6):
        device, reference = two_views()[(0, index)], two_views(backend=Backend.reference)[(0, index)]
        for name in ("query", "key"):
            assert torch.equal(device[f"{name}_draw"], reference[f"{name}_draw"])
            finished = apply_on_device(device[name].unsqueeze(0) / 255, device[f"{name}_draw"].unsqueeze(0))
            # PIL's approximate blur is worst on noise; without the draw, views differ by 40 levels.
            assert (finished - reference[name] / 255).abs().mean() * 255 < 6
