"""Each view loses patches by its own foreground, and shows its own colours there, whichever branch is masked."""

import pytest
import torch
from contrastive_samples import noise
from torch import Generator

from repro.masking.branches import SaliencyMasking
from repro.settings.choices import Branch, Strategy
from repro.settings.sections import FidelitySettings, MaskingSettings


@pytest.mark.parametrize("branch", Branch)
def test_each_view_is_masked_by_its_own_foreground_and_filled_from_itself(branch: Branch) -> None:
    query, key = noise(6, 56, seed=1), noise(6, 56, seed=2)
    left, top = torch.zeros(2, 6, 7, 7, dtype=torch.bool)
    left[:, :, :3] = top[:, :2] = True  # 21 and 14 of the 49 cells
    settings = MaskingSettings(Strategy.mean_fill, branch=branch, ratio_min=0.4, ratio_max=0.4)
    masking = SaliencyMasking(settings, FidelitySettings(), group_size=6)
    views = masking(query, key, left, top, Generator().manual_seed(0))
    assert views.hard_negative is not None
    masked = {
        "query": (query, views.query, left, (8, 11) if branch is not Branch.key else (0, 0)),
        "key": (key, views.key, top, (6, 14) if branch is not Branch.query else (0, 0)),
        "hard negative": (key, views.hard_negative, top, None),
    }
    for name, (view, shown, foreground, counts) in masked.items():
        hidden = shown != view
        assert torch.equal(shown[hidden], view.mean((2, 3), keepdim=True).expand_as(view)[hidden]), name
        patches = hidden[:, 0, ::8, ::8]
        inside, outside = ((patches & stratum).sum((1, 2)) for stratum in (foreground, ~foreground))
        if counts is not None:
            assert (inside.tolist(), outside.tolist()) == ([counts[0]] * 6, [counts[1]] * 6), name
        else:
            assert ((inside >= 6) & (inside <= 10) & (outside == 0)).all(), name
