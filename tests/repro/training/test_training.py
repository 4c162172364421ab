import json
import os
import sys
from collections.abc import Mapping
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from json_rows import read_rows
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from training_samples import (
    CPU,
    EPOCH,
    OURS,
    STEPS,
    TINY,
    Poison,
    assert_same_training,
    files_below,
    fixed_batch,
    make_training,
    newest,
    tiny,
)

from repro.backbones.backbone import load_backbone
from repro.contrastive.moco import MoCo
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.settings.choices import Precision
from repro.settings.identity import plain
from repro.training.learner import build_view_maker
from repro.training.pretraining import open_data, pretrain
from repro.training.runner import Training
from repro.training.steps.precision import Bf16OptimWrapper, arithmetic, wrap_optimizer
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.gallery import draw_gallery
from repro.training.watching.hooks import DivergenceError, RuntimeInfo


def test_the_learning_rate_is_a_cosine_of_the_epoch(undisturbed: RunFolder) -> None:
    rows = read_rows(undisturbed.metrics)
    assert len(rows) == STEPS
    for step, row in enumerate(rows):
        epoch = step // EPOCH
        assert row["lr"] == pytest.approx(0.03 * 0.5 * (1 + cos(pi * epoch / 3)), rel=1e-9)
        assert row["epoch"] == epoch + 1
        assert row["images_per_second"] > 0


def test_tensorboard_has_the_losses_too(undisturbed: RunFolder) -> None:
    events = EventAccumulator(str(undisturbed.logs / "tensorboard")).Reload().Scalars("loss")
    rows = read_rows(undisturbed.metrics)
    assert [event.step for event in events] == [row["step"] for row in rows]
    assert [event.value for event in events] == pytest.approx([row["loss"] for row in rows])


def test_each_attempt_records_its_machines_settings_and_torchs_switches(undisturbed: RunFolder) -> None:
    (attempt,) = json.loads(undisturbed.provenance.read_text())
    assert attempt["machine"] == {
        name: value for name, value in plain(tiny(OURS).machine).items() if name not in ("data_root", "data_cache")
    }
    assert "arithmetic" not in attempt  # a CPU has none
    assert arithmetic(CPU) == {}
    assert arithmetic(torch.device("cuda")) == {
        "cudnn.allow_tf32": True,
        "cudnn.deterministic": False,
        "cudnn.benchmark": False,
        "float32_matmul_precision": "highest",
    }


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_run_on_the_cpu_asks_nothing_of_a_gpu_that_is_there(
    local_rank: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The GPU may be full or exclusively another process's. Without a driver, asking fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    run = tiny("mocov2", {"encoder.width": 4, "optimization.epochs": 2, "machine.monitor_images": 0})
    for _ in range(2):
        make_training(run, RunFolder(tmp_path)).run()
    assert newest(tmp_path / "checkpoints")["generators"][0]["cuda"] is None or torch.cuda.is_initialized()
    assert os.environ["LOCAL_RANK"] == str(local_rank)


def test_a_finished_run_holds_the_query_encoder_as_its_backbone(undisturbed: RunFolder) -> None:
    backbone = load_backbone(undisturbed.backbone, arch="resnet18")
    assert (backbone.input_filter, backbone.features, backbone.run_id) == ("high_pass", 64, tiny(OURS).id)
    weights = newest(undisturbed.checkpoints)["model"]
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder_q.{name}"]), name


def test_momentum_encoder_and_queue_have_moved_and_the_localizer_is_in_no_checkpoint(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    weights = newest(undisturbed.checkpoints)["model"]
    fresh = make_training(tiny(OURS), RunFolder(tmp_path)).model.state_dict()
    assert weights.keys() == fresh.keys()
    assert {name.partition(".")[0] for name in weights} == {"encoder_q", "encoder_k", "queue", "_extra_state"}
    for name in ("encoder_q.conv1.weight", "encoder_k.network.conv1.weight", "queue.keys"):
        assert not torch.equal(weights[name], fresh[name]), name
    assert weights["_extra_state"] == {"steps": STEPS}
    assert int(weights["queue.position"]) == STEPS * 8 % 32
    torch.testing.assert_close(weights["queue.keys"].norm(dim=0), torch.ones(32))


@pytest.mark.parametrize("number", [0, 1])
def test_no_rank_trains_before_the_first_accepts_the_folder_nor_ends_before_it_sees_the_backbone(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    for name in ("record_attempt", "barrier", "save_backbone", "await_file"):
        monkeypatch.setattr(f"repro.training.pretraining.{name}", lambda *_, name=name, **__: told.append(name))
    monkeypatch.setattr(Training, "run", lambda _: told.append("run"))
    monkeypatch.setattr("repro.training.pretraining.rank", lambda: number)
    folder = RunFolder(tmp_path)
    pretrain(tiny(), folder, CPU)
    first = ["record_attempt", "barrier", "run", "save_backbone", "barrier", "await_file"]
    assert told == (first if number == 0 else ["barrier", "run", "barrier", "await_file"])
    folder.backbone.touch()
    pretrain(tiny(), folder, CPU)
    assert told[-2:] == ["await_file", "await_file"]  # nor does one that finds it go on before it sees it


def test_provenance_says_what_made_the_run(undisturbed: RunFolder) -> None:
    (attempt,) = json.loads(undisturbed.provenance.read_text())
    assert set(attempt) == {
        *("started", "commit", "dirty", "command", "process", "host", "device", "python", "packages", "data"),
        "machine",
    }
    assert attempt["device"].startswith("cpu")
    assert attempt["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "absent" not in attempt["packages"].values()
    assert attempt["data"] == {"train": open_data(tiny(), "train").fingerprint()}
    assert undisturbed.load() == tiny(OURS)


def test_status_ends_as_done_with_every_step(undisturbed: RunFolder) -> None:
    status = undisturbed.status()
    assert status is not None
    assert (status.state, status.task, status.step, status.steps, status.attempt, status.error) == (
        *("done", "pretrain", STEPS, STEPS, 1, ""),
    )


@pytest.mark.parametrize("columns", [4, 7])
def test_the_gallery_has_a_column_for_every_stage(undisturbed: RunFolder, tmp_path: Path, columns: int) -> None:
    path = undisturbed.gallery / "masks.png"
    if columns == 4:  # plain MoCo masks nothing: two views, and the network's inputs
        path = tmp_path / "masks.png"
        draw_gallery(build_view_maker(tiny(), CPU).stages(fixed_batch(tiny())), path)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (165 * columns, 1353)
        assert picture.convert("L").getextrema()[0] < 100  # the picture is not blank


def test_a_training_and_its_gallery_wait_for_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("", ".figure", ".backends", ".backends.backend_agg"):
        monkeypatch.setitem(sys.modules, f"matplotlib{module}", None)  # its import would raise an error
    run = tiny(OURS, {"masking.guidance": "random", "optimization.epochs": 1})
    folder = RunFolder.of(run, tmp_path)
    with folder.attempt("pretrain"):
        pretrain(run, folder, CPU)
    assert (folder.gallery / "masks.png").exists()


@pytest.fixture
def amp() -> Bf16OptimWrapper:
    wrapper = wrap_optimizer(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), Precision.bf16, CPU)
    assert isinstance(wrapper, Bf16OptimWrapper)
    return wrapper


@pytest.mark.parametrize("method", [OURS, "mocov2+ours-blur", "simclr+ours-mean"])
def test_filters_and_noise_stay_in_single_precision_under_autocast(method: str, amp: Bf16OptimWrapper) -> None:
    run = tiny(method, {"masking.guidance": "random"})
    maker, batch = build_view_maker(run, CPU), fixed_batch(run)
    exact = maker(batch)["views"]
    with amp.optim_context(torch.nn.Identity()):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
        views = maker(batch)["views"]
    for name in ("query", "key", "hard_negative"):
        assert getattr(views, name).dtype is torch.float32
        assert torch.equal(getattr(views, name), getattr(exact, name)), name


def first_losses(path: Path, **changes: str) -> list[float]:
    """The losses of one epoch whose masks do not depend on a view's last bits, as those from a saliency map do."""
    settings = {"masking.guidance": "random", "optimization.epochs": 1}
    folder = RunFolder(path)
    run = tiny(OURS, settings | {key.replace("__", "."): value for key, value in changes.items()})
    make_training(run, folder).run()
    return [row["loss"] for row in read_rows(folder.metrics)]


def test_bf16_trains_with_weights_in_single_precision(tmp_path: Path) -> None:
    half, exact = first_losses(tmp_path / "half", optimization__precision="bf16"), first_losses(tmp_path / "exact")
    trained = newest(RunFolder(tmp_path / "half").checkpoints)["model"]
    assert {x.dtype for x in trained.values() if isinstance(x, Tensor)} == {torch.float32, torch.int64}
    assert half != exact
    # bf16 keeps 8 bits: similarities are off by about 0.02, which temperature and rho enlarge to 0.02 * 2 / 0.2.
    assert half[0] == pytest.approx(exact[0], abs=0.2)


@pytest.mark.parametrize(
    ("device", "graphs", "said"),
    [
        ("cpu", False, "optimization.precision=fp16 needs a GPU"),
        ("cuda", True, "graphs=true cannot replay steps in fp16"),
    ],
)
def test_fp16_is_refused_on_a_cpu_and_in_a_graph(tmp_path: Path, device: str, graphs: bool, said: str) -> None:
    run = tiny(changes={"optimization.precision": "fp16", "machine.graphs": graphs})
    with pytest.raises(UserError, match=f"{said}; mend: "):
        make_training(run, RunFolder(tmp_path), device=torch.device(device))
    without = make_training(tiny(changes={"machine.graphs": graphs}), RunFolder(tmp_path))  # the one without the other
    assert not without.graphs  # on a CPU, whose steps cannot be replayed


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_trained_is_compiled_if_asked_for(
    tmp_path: Path, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.training.pretraining.require_compiler", lambda _: None)  # no step is made here
    model = make_training(tiny(changes={"machine.compile": compiled}), RunFolder(tmp_path)).model
    assert isinstance(model, MoCo)
    assert model.data_preprocessor.compiled is compiled
    for network in (model.encoder_q, model.encoder_k.network):
        assert (network._compiled_call_impl is not None) is compiled


def test_reference_and_device_augmentation_train_alike(tmp_path: Path) -> None:
    slow = {"optimization__lr": "1e-4"}  # at a usual rate, the first step makes any last bit a large difference
    reference = first_losses(tmp_path / "reference", augmentation__backend="reference", **slow)
    device = first_losses(tmp_path / "device", **slow)
    assert reference != device
    assert reference == pytest.approx(device, rel=0.05)  # one draw, applied by PIL or on the device


@pytest.mark.end_to_end
def test_a_gradient_that_is_not_finite_stops_before_the_next_checkpoint(undisturbed: RunFolder, tmp_path: Path) -> None:
    run, folder = tiny(OURS), RunFolder(tmp_path)
    with pytest.raises(
        DivergenceError,
        match=r"^the gradient or loss of step 4 is not finite; the checkpoint of step 3 is kept; mend: ",
    ) as caught:
        make_training(run, folder, Poison(4)).run()
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in checkpoints(folder.checkpoints)] == ["step_00000003.pth", "step_00000002.pth"]
    make_training(run, folder).run()
    assert_same_training(folder.checkpoints, undisturbed.checkpoints)


@pytest.fixture
def built(tmp_path: Path) -> Any:
    return make_training(tiny(), RunFolder(tmp_path))


def test_nothing_in_machine_changes_the_model_that_is_built(built: Any, tmp_path: Path) -> None:
    machine = {"machine.workers": 2, "machine.log_every": 7, "machine.channels_last": True}
    other = make_training(tiny(changes=machine), RunFolder(tmp_path / "other"))
    weights = other.model.state_dict()
    for name, tensor in built.model.state_dict().items():
        assert name == "_extra_state" or torch.equal(tensor, weights[name]), name
    assert other.model.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    masked = tiny("mocov2+ours-hp", machine | {"masking.guidance": "random"})
    views = build_view_maker(masked, CPU)(fixed_batch(masked))["views"]
    for view in (views.query, views.key, views.hard_negative):
        assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("method", "query", "key"),
    [
        ("mocov2+ours-hp", True, True),
        ("mocov2+ours-hp-no-hard-negative", True, False),
        ("mocov2+ours-hp@key", False, True),
        ("mocov2+ours-hp@key-no-hard-negative", False, True),
        ("mocov2+ours-hp@both-no-hard-negative", True, True),
    ],
)
def test_a_step_asks_for_the_foreground_that_it_uses_and_gets_the_same_views(
    method: str, query: bool, key: bool
) -> None:
    """Nine of Table 3's rows used to pass every view through the localizer, and ignored half of the result."""
    run = tiny(method)
    maker = build_view_maker(run, CPU)
    assert isinstance(maker, ViewMaker)
    assert maker.foregrounds is not None
    batch, asked, found = fixed_batch(run), [], maker.foregrounds
    whole = maker.stages(batch)
    assert None not in (whole.query_foreground, whole.key_foreground)

    def foregrounds(views: Tensor, of: Mapping[str, Any], name: str) -> Tensor:
        asked.append(name)
        return found(views, of, name)

    maker.foregrounds = maker.hard_foregrounds = foregrounds
    views = maker(batch)["views"]
    assert asked == ["query"] * query + ["key"] * key
    assert torch.equal(views.query, whole.views.query)
    assert torch.equal(views.key, whole.views.key)
    assert (views.hard_negative is None) is (whole.views.hard_negative is None)
    if views.hard_negative is not None:
        assert torch.equal(views.hard_negative, whole.views.hard_negative)


def test_weights_start_from_the_seed_and_leave_the_global_generator_alone(built: Any, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    other = make_training(tiny(changes={"seed": 1}), RunFolder(tmp_path / "other"))
    assert torch.equal(torch.get_rng_state(), state)
    name = "encoder_q.conv1.weight"
    assert not torch.equal(other.model.state_dict()[name], built.model.state_dict()[name])


def test_the_settings_reach_the_optimizer(built: Any) -> None:
    (group,) = built.optimizers["main"].param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (TINY["optimization.lr"], 0.9, 1e-4)
    trained = {id(p) for p in group["params"]}
    assert trained == {id(p) for p in built.model.encoder_q.parameters()}


def test_batch_norm_groups_that_processes_cannot_share_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.contrastive.moco.world_size", lambda: 3)
    with pytest.raises(UserError, match=r"moco.bn_splits=2 groups cannot be shared by 3 processes; mend: "):
        make_training(tiny(), RunFolder(tmp_path))


def test_metrics_are_written_every_so_many_steps(tmp_path: Path) -> None:
    changes = {"machine.log_every": 2, "machine.checkpoint_every": 100, "optimization.batch": 4}
    folder = RunFolder(tmp_path)
    make_training(tiny(changes={**changes, "optimization.epochs": 2}), folder).run()
    rows = read_rows(folder.metrics)
    assert [row["step"] for row in rows] == [2, 4, 5, 7, 9, 10]  # every second step of an epoch, and its last one
    assert len({row["images_per_second"] for row in rows}) == len(rows)  # each line averages its own steps
    assert files_below(folder.checkpoints) == {"step_00000005.pth", "step_00000010.pth"}


def test_the_log_of_a_training_does_not_wait_for_the_device_at_each_step() -> None:
    class Hub:
        def __init__(self) -> None:
            self.scalars: list[tuple[str, float]] = []

        def update_scalar(self, name: str, value: float) -> None:
            self.scalars.append((name, value))

    class Runner:
        message_hub = Hub()
        train_dataloader = range(5)

    hook, runner = RuntimeInfo(2), Runner()
    counts = []
    for position in range(5):
        hook.after_train_iter(runner, position, None, {"loss": torch.tensor(float(position))})
        counts.append(len(runner.message_hub.scalars))
    assert counts == [0, 2, 2, 4, 5]  # the epoch's end hands on the rest
    assert runner.message_hub.scalars == [("train/loss", float(n)) for n in range(5)]


def test_a_step_that_throws_the_weights_away_is_named_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    """lr=1e38: loss and gradient of the first step are finite, the weights after it are not."""
    run = tiny(changes={"optimization.lr": 1e38, "machine.checkpoint_every": 1})
    folder = RunFolder.of(run, tmp_path)
    with pytest.raises(
        DivergenceError,
        match=r"^weights after step 1 are not finite \(\d+ \(.*there is no checkpoint of .*mend: a lower ",
    ):
        make_training(run, folder).run()
    assert not list(folder.checkpoints.glob("*.pth"))
