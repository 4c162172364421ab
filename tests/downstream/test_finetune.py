import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from training_samples import (
    CPU,
    assert_same_training,
    copied,
    newest,
    salmask,
    stop_before,
    tiny,
    with_random_backbone,
)

from downstream.crops import BackboneInput
from downstream.finetune import FINETUNE, SEMI_1, SEMI_10, FineTuned, FineTuning, ScoreNetwork
from downstream.measurement import Target, scores
from downstream.partitions import standard
from downstream.tasks import evaluate
from repro.backbones.backbone import load_backbone
from repro.contrastive.batch_norm import ReducedBatchNorm
from repro.data.subsets import Subset, share_of, sizes
from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.settings.choices import InputFilter
from repro.settings.protocols import FinetuneSettings
from repro.settings.run import Run
from repro.training.batches.loading import EpochBatches, fingerprint_of
from repro.training.pretraining import open_data
from repro.training.runner import Training
from repro.training.watching.hooks import DivergenceError

CHANGES = {"finetune.epochs": 2, "finetune.batch": 8, "data.scenes.train_count": 24, "machine.checkpoint_every": 99}
RUN = tiny(changes=CHANGES)
TARGET = Target("scenes", None, RUN.data.scenes)
PROTOCOL = "finetune-v1[epochs=2,batch=8]"


def training_folder(folder: RunFolder) -> Path:
    return folder.path / "finetune" / f"scenes-{PROTOCOL}"


def training(folder: RunFolder, run: Run = RUN, task: str = "finetune") -> Training:
    fine_tuning = FineTuning(task)
    backbone = load_backbone(folder.backbone)
    partition = standard(TARGET, seed=0)
    train, val = fine_tuning.labelled(partition.train), partition.scored
    return fine_tuning.build_training(run, folder, training_folder(folder), backbone, TARGET, train, val, CPU)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Result]]:
    folder = with_random_backbone(RUN, tmp_path_factory.mktemp("finetune"))
    return folder, evaluate(RUN, folder, "finetune", CPU)


def test_the_rows_are_what_the_final_network_scores_in_eval_mode(tuned: tuple[RunFolder, list[Result]]) -> None:
    folder, rows = tuned
    assert read(folder.results) == (rows, [])
    assert {(row.task, row.dataset, row.split, row.protocol) for row in rows} == {
        ("finetune", "scenes", "val", PROTOCOL)
    }
    values = {row.metric: row.value for row in rows}
    state = torch.load(training_folder(folder) / "checkpoints" / "step_00000006.pth", weights_only=True)["model"]
    model = FineTuned(load_backbone(folder.backbone), 8)
    model.load_state_dict(state)
    model.eval()
    loader = ScoreNetwork(open_data(RUN, "val"), 32, 7, 0).loader
    with torch.no_grad():
        batches = [(model.network(model.data_preprocessor.normalise(pixels)), labels) for pixels, labels in loader]
    expected = scores(torch.cat([logits for logits, _ in batches]), torch.cat([labels for _, labels in batches]))
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["top1_best"] >= values["top1"]
    status = folder.status("finetune")
    assert status is not None
    assert (status.step, status.steps) == (6, 6)


def test_every_parameter_is_trained_and_the_backbone_file_is_left_alone(tuned: tuple[RunFolder, list[Result]]) -> None:
    folder, _ = tuned
    before = load_backbone(folder.backbone).network.state_dict()
    state = torch.load(training_folder(folder) / "checkpoints" / "step_00000006.pth", weights_only=True)["model"]
    differing = {name for name in before if not torch.equal(before[name], state[f"network.{name}"])}
    assert differing == set(before)
    assert "step_00000006.pth" in {path.name for path in training_folder(folder).rglob("*.pth")}


@pytest.mark.parametrize("step", [3, 4], ids=["mid-epoch", "end of an epoch"])
def test_interrupted_and_resumed_equals_undisturbed(
    tuned: tuple[RunFolder, list[Result]], tmp_path: Path, step: int
) -> None:
    undisturbed, expected = tuned
    folder = with_random_backbone(RUN, tmp_path)
    stop_before(training(folder), step)
    rows = evaluate(RUN, folder, "finetune", CPU)
    assert [row.value for row in rows] == [row.value for row in expected]
    assert_same_training(training_folder(folder) / "checkpoints", training_folder(undisturbed) / "checkpoints")


def test_a_second_call_trains_nothing(
    tuned: tuple[RunFolder, list[Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tuned[0], tmp_path / "copy")
    monkeypatch.setattr(FineTuning, "build_training", None)
    assert evaluate(RUN, folder, "finetune", CPU) == tuned[1]


def test_memory_layout_and_processes_that_decode_are_as_the_machine_is_asked_for(tmp_path: Path) -> None:
    for machine in (RUN.machine, replace(RUN.machine, channels_last=True, workers=3)):
        run = replace(RUN, machine=machine)
        built = training(with_random_backbone(run, tmp_path), run)
        weight = built.model.network.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == machine.channels_last
        (scorer,) = built.hooks
        assert [loader.num_workers for loader in (built.loader, scorer.loader)] == [machine.workers] * 2


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")  # no step of the optimizer is made here
def test_the_recipe_is_simclrs(tmp_path: Path) -> None:
    run = replace(RUN, finetune=FinetuneSettings(batch=8))
    full_training = training(with_random_backbone(run, tmp_path), run)
    head = full_training.model.network.fc
    weight = head.weight.detach()
    assert abs(float(weight.mean())) < 0.002
    assert float(weight.std()) == pytest.approx(0.01, rel=0.1)
    assert not head.bias.any()
    (group,) = full_training.optimizers["main"].param_groups
    assert group["lr"] == pytest.approx(0.05 * 8 / 256)
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.0)
    assert full_training.epochs == 30
    (schedule,) = full_training.schedulers["main"]
    assert schedule.by_epoch is False
    rates = []
    for _ in range(91):  # 30 epochs of 24 images in batches of 8, and what comes after the last step
        rates.append(group["lr"])
        schedule.step()
    expected = [0.05 * 8 / 256 * (1 + math.cos(math.pi * step / 90)) / 2 for step in range(91)]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("task", "settings", "name", "epochs"),
    [
        ("finetune", {}, "finetune-v1", 30),
        ("semi-10", {}, "semi-10pct-v1", 30),
        ("semi-1", {}, "semi-1pct-v1", 60),
        ("semi-1", {"epochs": 60}, "semi-1pct-v1", 60),
        ("semi-1", {"epochs": 30}, "semi-1pct-v1[epochs=30]", 30),
        ("finetune", {"lr": 0.1, "batch": 128}, "finetune-v1[batch=128,lr=0.1]", 30),
    ],
)
def test_the_protocol_names_every_departure(task: str, settings: dict[str, Any], name: str, epochs: int) -> None:
    assert FinetuneSettings(**settings).protocol(task).name == name
    assert FinetuneSettings(**settings).epochs_of(task) == epochs


def test_a_share_of_the_labels_is_the_same_for_every_run(tmp_path: Path) -> None:
    train = open_data(RUN, "train")
    share = FineTuning("semi-10").labelled(train)
    assert isinstance(share, Subset)
    assert sizes(share) == [1] * 8
    assert share.indices.tolist() == share_of(train, 0.1, seed=0).indices.tolist()  # the protocol's own draw
    share_of_another_seed = FineTuning("semi-10").labelled(open_data(replace(RUN, seed=5), "train"))
    assert share.fingerprint() == share_of_another_seed.fingerprint()
    assert FineTuning("finetune").labelled(train) is train
    loader = training(with_random_backbone(RUN, tmp_path), task="semi-10").loader
    assert len(loader.dataset) == 8
    assert isinstance(loader.batch_sampler, EpochBatches)


def test_a_training_that_diverges_names_the_setting_of_its_own(tmp_path: Path) -> None:
    """The message used to name optimization.lr, which an evaluation refuses, as it belongs to another run."""
    run = tiny(changes={**CHANGES, "finetune.lr": 1e30})
    with pytest.raises(DivergenceError, match=r"is not finite; .*mend: a lower finetune\.lr$"):
        training(with_random_backbone(run, tmp_path), run).run()


def test_few_labels_are_one_batch_and_the_rate_follows(tmp_path: Path) -> None:
    run = replace(RUN, finetune=FinetuneSettings(epochs=2, batch=256))
    short = training(with_random_backbone(run, tmp_path), run, "semi-1")
    assert [len(batch) for batch in short.loader.batch_sampler] == [8]
    assert training(short.folder, replace(RUN, finetune=FinetuneSettings(batch=8)), "semi-1").epochs == 60
    assert short.optimizers["main"].param_groups[0]["lr"] == pytest.approx(0.05 * 8 / 256)


def test_batch_norm_spans_all_processes(tuned: tuple[RunFolder, list[Result]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.contrastive.batch_norm.world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    network = FineTuned(load_backbone(tuned[0].backbone), 8).network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {ReducedBatchNorm}


def test_without_momentum_there_is_none_of_nesterovs(tmp_path: Path) -> None:
    run = replace(RUN, finetune=FinetuneSettings(batch=16, momentum=0.0))
    (group,) = training(with_random_backbone(run, tmp_path), run).optimizers["main"].param_groups
    assert (group["momentum"], group["nesterov"]) == (0.0, False)


def test_a_training_follows_the_settings_and_the_seed_of_its_run(tuned: tuple[RunFolder, list[Result]]) -> None:
    other = replace(RUN, seed=5, finetune=replace(RUN.finetune, weight_decay=0.25))
    trainings = [training(tuned[0], run) for run in (RUN, other)]
    assert trainings[1].optimizers["main"].param_groups[0]["weight_decay"] == 0.25
    first, second = ([each.model.network.fc.weight, each.loader.dataset[0, 3]["images"]] for each in trainings)
    assert [torch.equal(*pair) for pair in zip(first, second, strict=True)] == [False, False]
    assert torch.equal(*(each.model.network.conv1.weight for each in trainings))  # the backbone's
    first_order, second_order = (list(each.loader.batch_sampler) for each in trainings)
    assert first_order != second_order


def test_the_loss_is_the_mean_cross_entropy_of_what_the_backbone_was_trained_to_see(tmp_path: Path) -> None:
    model = FineTuned(load_backbone(with_random_backbone(RUN, tmp_path, "high_pass").backbone), 8).eval()
    pixels, labels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 3, 3, 7, 1])
    with torch.no_grad():
        batch = model.data_preprocessor({"images": pixels, "labels": labels})
        chances = model.network(BackboneInput(InputFilter.high_pass).normalise(pixels)).log_softmax(1)
        loss = model.losses(**batch)["loss"]
    assert float(loss) == pytest.approx(-float(chances[torch.arange(5), labels].mean()), rel=1e-5)


def test_a_training_knows_its_task_its_images_and_the_size_of_its_crops(tmp_path: Path) -> None:
    run = replace(RUN, data=replace(RUN.data, crop=48), finetune=replace(RUN.finetune, batch=16))
    built = training(with_random_backbone(RUN, tmp_path), run, "semi-10")
    partition = standard(TARGET, seed=0)
    labelled = FineTuning("semi-10").labelled(partition.train)
    assert (built.task, built.run_id, built.epochs, built.batch) == ("semi-10", run.id, 2, 8)
    assert built.data == fingerprint_of(labelled, partition.scored)
    assert [each.task for each in (FINETUNE, SEMI_1, SEMI_10)] == ["finetune", "semi-1", "semi-10"]
    (scorer,) = built.hooks
    assert built.loader.dataset[0, 3]["images"].shape == (3, 48, 48)
    assert (next(iter(scorer.loader))[0].shape, scorer.images) == ((16, 3, 48, 48), partition.scored)
    whole = Target("own", None, RUN.data.scenes)
    fine_tuning, backbone = FineTuning("semi-10"), load_backbone(RunFolder(tmp_path / RUN.folder).backbone)
    parts = (labelled, partition.scored)
    elsewhere = fine_tuning.build_training(run, RunFolder(tmp_path), tmp_path, backbone, whole, *parts, CPU)
    assert elsewhere.task == "semi-10@own"


def test_logits_of_the_last_epoch_are_kept_and_those_of_an_earlier_one_are_not(tmp_path: Path) -> None:
    model = FineTuned(load_backbone(with_random_backbone(RUN, tmp_path).backbone), 8)
    scorer = ScoreNetwork(standard(TARGET, seed=0).scored, 32, 8, 0)
    for value in (0.0, 1.0):
        nn.init.constant_(model.network.fc.bias, value)
        scorer.after_train_epoch(MagicMock(model=model, epoch=0, iter=1))
        assert not model.training  # running statistics, not those of a batch
        assert torch.equal(scorer.final_logits(model), scorer.logits(model))
        model.train()
    asked = MagicMock(wraps=scorer.logits)
    scorer.logits = asked  # type: ignore[method-assign]
    assert scorer.final_logits(model) is scorer.last_logits
    asked.assert_not_called()


def test_tasks_do_not_share_their_files(tmp_path: Path) -> None:
    run = replace(RUN, finetune=FinetuneSettings(epochs=1, batch=8))
    folder = with_random_backbone(run, tmp_path)
    for task in ("semi-1", "semi-10"):
        evaluate(run, folder, task, CPU)
    names = {path.name for path in (folder.path / "finetune").iterdir()}
    assert names == {f"scenes-{name}[epochs=1,batch=8]" for name in ("semi-1pct-v1", "semi-10pct-v1")}
    assert {row.task for row in read(folder.results)[0]} == {"semi-1", "semi-10"}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    changes = {**CHANGES, "data.crop": 64, "probe.epochs": 2, "knn.neighbours": [5]}
    run = tiny(changes=changes)
    alone, together = (with_random_backbone(run, tmp_path / name) for name in ("alone", "together"))
    tasks = ("eval", "--task", "knn,linear,finetune")
    settings = [f"{key}={value}" for key, value in changes.items() if key.startswith(("probe", "knn", "finetune"))]
    assert salmask(*tasks, str(alone.path), *settings).code == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "repro.cli"]
    subprocess.run([*launch, *tasks, str(together.path), *settings], check=True, capture_output=True)
    values_alone, values_together = (
        {(row.task, row.metric): row.value for row in read(folder.results)[0]} for folder in (alone, together)
    )
    assert values_alone.keys() == values_together.keys()
    assert values_together == pytest.approx(values_alone, abs=100 / 24 + 1e-6)  # one image of 24 at most
    for kind in ("finetune", "probes"):
        a, b = (newest(next(folder.path.glob(f"{kind}/*/checkpoints")))["model"] for folder in (alone, together))
        for name in a:
            assert float((a[name] - b[name]).float().norm()) <= 1e-3 * float(a[name].float().norm()) + 1e-4, name
    assert len(list(together.path.glob("features/*.npy"))) == 2
