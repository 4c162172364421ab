"""The table of frameworks: complete, true to the models that it names, and readable without torch."""

import inspect
import pkgutil
import subprocess
import sys

import pytest
import torch

from baselines import TABLE1, resolve
from repro.contrastive.loss_model import ContrastiveModel
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.identity import plain
from repro.settings.labels import label
from repro.settings.run import Run
from repro.settings.sections import Framework

CONTRASTIVE = [framework for framework, entry in FRAMEWORKS.items() if entry.model]


def test_every_framework_has_an_entry() -> None:
    assert set(FRAMEWORKS) == set(Framework)
    assert [framework.value for framework in CONTRASTIVE] == ["mocov2", "simclr"]


@pytest.mark.parametrize("framework", CONTRASTIVE)
def test_the_named_model_is_built_from_the_runs_settings(framework: Framework) -> None:
    run = resolve(framework.value, {"encoder": {"arch": "resnet18", "dim": 24}, "moco.queue": 256})
    build = pkgutil.resolve_name(FRAMEWORKS[framework].model)
    assert list(inspect.signature(build).parameters) == ["run", "preprocessor"]
    model = build(run, None)
    assert isinstance(model, ContrastiveModel)
    assert model.encoder(torch.randn(4, 3, 64, 64)).shape == (4, 24)
    with pytest.raises(ValueError, match="mode 'tensor' is not one of its own"):
        model(None, mode="tensor")


@pytest.mark.parametrize("framework", CONTRASTIVE)
def test_the_hard_negatives_weight_is_the_one_of_its_own_section(framework: Framework) -> None:
    weight = FRAMEWORKS[framework].hard_negative_weight
    assert weight is not None
    assert weight(Run()) == 2.0
    section = {Framework.mocov2: "moco", Framework.simclr: "simclr"}[framework]
    assert weight(resolve(framework.value, {f"{section}.hard_negative_weight": 0.5})) == 0.5


def test_limits_name_settings_that_a_run_has() -> None:
    sections = plain(Run())
    for entry in FRAMEWORKS.values():
        for key in entry.limits:
            section, name = key.split(".")
            assert name in sections[section]


def test_every_contrastive_framework_has_a_block_of_rows() -> None:
    for framework in CONTRASTIVE:
        block = [name for name in TABLE1 if name.partition("+")[0] == framework.value]
        assert len(block) == 6
        assert all(label(name).startswith(FRAMEWORKS[framework].title) for name in block)


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, repro.settings.frameworks, baselines; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
