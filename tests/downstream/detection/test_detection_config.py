"""The detectors' settings: MoCo's recipes, schedules for any number of devices, and the protocols' names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detection_samples import config
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import build_lr_scheduler
from training_samples import tiny

from downstream.detection.config import batch_on
from downstream.measurement import Measurement, as_results
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import Result
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of
from repro.settings.detection import COCO, VOC, DetectionHead, DetectionSettings


def test_voc_is_mocos_recipe_to_the_letter() -> None:
    """MoCo detection/configs: Base-RCNN-C4-BN, pascal_voc_R_50_C4_24k, and its _moco, on 8 GPUs."""
    cfg, _ = config()
    model, solver, image = cfg.MODEL, cfg.SOLVER, cfg.INPUT
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (16, 0.02, 24000)
    assert tuple(solver.STEPS) == (18000, 22000)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD) == (100, 0.001, "linear")
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.GAMMA) == (0.9, 1e-4, 0.0, 0.1)
    assert solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    assert tuple(image.MIN_SIZE_TRAIN) == tuple(range(480, 801, 32))
    assert (image.MIN_SIZE_TEST, image.MAX_SIZE_TRAIN, image.MAX_SIZE_TEST, image.FORMAT) == (
        800,
        1333,
        1333,
        "RGB",
    )
    assert pytest.approx([255 * value for value in IMAGENET_MEAN]) == model.PIXEL_MEAN
    assert pytest.approx([255 * value for value in IMAGENET_STD]) == model.PIXEL_STD
    assert (model.BACKBONE.FREEZE_AT, model.RESNETS.STRIDE_IN_1X1, model.RESNETS.NORM) == (0, False, "naiveSyncBN")
    assert (model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN) == (12000, 2000)
    assert (model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST, model.RPN.BATCH_SIZE_PER_IMAGE) == (
        6000,
        1000,
        256,
    )
    assert (model.ROI_HEADS.BATCH_SIZE_PER_IMAGE, model.ROI_HEADS.IOU_THRESHOLDS, model.ROI_HEADS.NUM_CLASSES) == (
        512,
        [0.5],
        20,
    )
    assert (model.ROI_HEADS.SCORE_THRESH_TEST, model.ROI_HEADS.NMS_THRESH_TEST) == (0.05, 0.5)
    assert model.ANCHOR_GENERATOR.SIZES == [[32, 64, 128, 256, 512]]
    assert (model.ROI_BOX_HEAD.POOLER_TYPE, model.ROI_BOX_HEAD.POOLER_RESOLUTION) == ("ROIAlignV2", 14)
    assert (cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER) == (True, 200)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert not model.MASK_ON


@pytest.mark.parametrize(
    ("schedule", "steps", "iterations"), [("1x", (60000, 80000), 90000), ("2x", (120000, 160000), 180000)]
)
def test_coco_is_mask_rcnn_on_both_schedules(schedule: str, steps: tuple[int, int], iterations: int) -> None:
    cfg, _ = config(schedule=f"coco_{schedule}")
    assert (tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (steps, iterations, 1000)
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == tuple(range(640, 801, 32))
    assert cfg.MODEL.MASK_ON


@pytest.mark.parametrize(
    ("devices", "batch", "lr", "iterations", "warmup", "steps", "norm"),
    [
        (1, 2, 0.0025, 192000, 800, (144000, 176000), "BN"),
        (2, 4, 0.005, 96000, 400, (72000, 88000), "naiveSyncBN"),
        (4, 8, 0.01, 48000, 200, (36000, 44000), "naiveSyncBN"),
        (8, 16, 0.02, 24000, 100, (18000, 22000), "naiveSyncBN"),
        (16, 16, 0.02, 24000, 100, (18000, 22000), "naiveSyncBN"),
    ],
)
def test_schedules_scale_linearly_to_the_devices(
    devices: int, batch: int, lr: float, iterations: int, warmup: int, steps: tuple[int, int], norm: str
) -> None:
    cfg, scaling = config(devices=devices)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.WARMUP_ITERS, tuple(solver.STEPS)) == (
        batch,
        iterations,
        warmup,
        steps,
    )
    assert pytest.approx(lr) == solver.BASE_LR
    assert f"batch {batch} (reference 16)" in str(scaling)
    assert norm == cfg.MODEL.RESNETS.NORM


def test_a_short_schedule_keeps_its_shape() -> None:
    cfg, scaling = config(DetectionSettings(iterations=240, batch=4, base_lr=0.04, min_size=96, rois=16), devices=1)
    assert (scaling.batch, scaling.iterations, scaling.warmup, scaling.steps) == (4, 240, 24, (180, 220))
    assert scaling.lr == pytest.approx(0.01)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (96, 16)
    assert (cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST) == (32, 32)
    assert (cfg.TEST.PRECISE_BN.NUM_ITER, cfg.MODEL.DEVICE) == (200, "cpu")
    shorter, _ = config(DetectionSettings(iterations=60))
    assert shorter.TEST.PRECISE_BN.NUM_ITER == 60


@pytest.mark.parametrize(("short", "long"), [(0, 1333), (96, 1333), (800, 1333), (1000, 1666), (1600, 2666)])
def test_the_long_side_grows_with_a_short_side_over_the_protocols(short: int, long: int) -> None:
    """detectron2 makes an image smaller than its short side says if the long side would exceed a limit."""
    cfg, _ = config(DetectionSettings(min_size=short))
    assert (short or 800) == cfg.INPUT.MIN_SIZE_TEST
    assert (long, long) == (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST)


def test_the_pyramids_new_layers_have_the_norm_of_the_backbone() -> None:
    for devices, norm in ((1, "BN"), (8, "naiveSyncBN")):
        cfg, _ = config(DetectionSettings(head=DetectionHead.fpn), devices=devices)
        assert cfg.MODEL.FPN.NORM == cfg.MODEL.RESNETS.NORM == norm


def values_of(cfg: CfgNode) -> dict[str, Any]:
    """The values of a config by their full names."""
    values, waiting = {}, list(yaml.safe_load(cfg.dump()).items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", entry) for key, entry in value.items()]
        else:
            values[name] = value
    return values


@pytest.mark.parametrize(("head", "own"), [("c4", {"ROI_HEADS.NAME"}), ("fpn", {"FPN.NORM"})])
def test_a_detector_is_detectron2s_but_for_what_the_fine_tuning_of_a_backbone_needs(head: str, own: set[str]) -> None:
    cfg, _ = config(DetectionSettings(head=DetectionHead(head)), schedule="coco_1x")
    theirs = get_cfg()
    theirs.merge_from_file(
        model_zoo.get_config_file(f"COCO-InstanceSegmentation/mask_rcnn_R_50_{head.upper()}_1x.yaml")
    )
    known = values_of(theirs)
    differing = {name for name, value in values_of(cfg).items() if value != known[name]}
    data = {"DATASETS.TRAIN", "DATASETS.TEST", "INPUT.FORMAT", "TEST.PRECISE_BN.ENABLED"}
    input_and_norms = {"PIXEL_MEAN", "PIXEL_STD", "BACKBONE.FREEZE_AT", "RESNETS.NORM", "RESNETS.STRIDE_IN_1X1"}
    given = {"DEVICE", "WEIGHTS", "ROI_HEADS.NUM_CLASSES"}
    assert differing == data | {f"MODEL.{name}" for name in input_and_norms | given | own}


def test_falls_are_rounded_as_detectron2_rounds_them() -> None:
    """75 % and 11/12 of 70 steps are 52.5 and 64.17, of 50 steps 37.5 and 45.83; halves are rounded to even."""
    for iterations, steps in ((70, (52, 64)), (50, (38, 46))):
        _, scaling = config(DetectionSettings(iterations=iterations), devices=1)
        assert scaling.steps == steps


@pytest.mark.parametrize("iterations", [1, 2])
def test_the_shortest_schedules_fall_at_no_step_before_the_first(iterations: int) -> None:
    cfg, scaling = config(DetectionSettings(iterations=iterations), devices=1)
    assert scaling.steps == tuple(cfg.SOLVER.STEPS) == (1,) * (iterations - 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    build_lr_scheduler(cfg, optimizer)
    assert ("x0.1 at" in str(scaling)) == (iterations > 1)


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch of 16 cannot be shared by 3 .*detection.batch=18"):
        batch_on(DetectionSettings(batch=16), 3)


def test_protocols_name_every_departure() -> None:
    assert DetectionSettings().protocol(VOC).name == "voc-frcnn-c4-24k-v1"
    assert DetectionSettings().protocol(VOC, 16).name == "voc-frcnn-c4-24k-v1"
    assert (
        DetectionSettings(coco_schedule="1x", head=DetectionHead.fpn).protocol(COCO, 8).name
        == "coco-mrcnn-fpn-1x-v1[batch=8]"
    )
    tiny_one = DetectionSettings(trials=2, iterations=60, min_size=96, rois=16, base_lr=0.04, high_pass_input=True)
    name = "voc-frcnn-c4-24k-v1[batch=2,iterations=60,base_lr=0.04,min_size=96,rois=16,high_pass_input=1,trials=2]"
    assert tiny_one.protocol(VOC, 2).name == name
    assert DetectionSettings(scene_objects=5).protocol(VOC, 16).name == "voc-frcnn-c4-24k-v1[scene_objects=5]"
    assert DetectionSettings(scene_objects=3).protocol(VOC, 16).name == "voc-frcnn-c4-24k-v1"
    assert DetectionSettings(trials=5).protocol(VOC).name == DetectionSettings().protocol(VOC).name
    assert DetectionSettings(trials=5).protocol(COCO).name.endswith("[trials=5]")
    assert scale_of(tiny_one.departures()) == "detection of 60 iterations, 96 px, 16 regions"
    assert DetectionSettings(batch=2).departures() == ()


def test_results_hold_what_is_smaller_of_the_evaluation_alone_and_behind_the_pretrainings(tmp_path: Path) -> None:
    run = tiny(changes={"data.scenes.size": 80})
    measured = Measurement("voc-v1", "test", "bbox_AP", 1.0, DetectionSettings(iterations=9).departures())
    cpu, evaluation = torch.device("cpu"), Evaluation(VOC, "scenes")
    times: dict[str, Any] = {"started": "2026-11-22T10:00:00+00:00", "duration_s": 1.0}
    (result,) = as_results([measured], run, RunFolder.of(run, tmp_path), evaluation, device=cpu, **times)
    assert result.evaluation_scale == "detection of 9 iterations"
    assert result.scale == f"{scale_of(sizes_below_recipe(run))}, detection of 9 iterations"


def test_a_batch_that_is_left_to_the_devices_comes_to_two_images_on_each_and_sixteen_at_most() -> None:
    left_open, name = DetectionSettings(), "coco-mrcnn-c4-2x-v1"
    possible = [protocol.name for protocol in left_open.possible_protocols(COCO)]
    assert possible == [*(f"{name}[batch={batch}]" for batch in range(2, 16, 2)), name]
    shared = [left_open.protocol(COCO, batch_on(left_open, devices)).name for devices in (*range(1, 9), 16)]
    assert shared == [*possible, name]
    (protocol,) = DetectionSettings(batch=3, trials=2).possible_protocols(VOC)
    assert protocol.name == "voc-frcnn-c4-24k-v1[batch=3,trials=2]"


def test_a_result_on_any_number_of_devices_counts_unless_the_batch_is_asked_for() -> None:
    run = tiny()
    row = Result(
        **dict.fromkeys(("recipe", "sweep", "method", "framework", "strategy", "fidelity", "scale", "commit"), ""),
        **{"run_id": run.id, "seed": 0, "task": VOC, "dataset": "scenes", "split": "test", "metric": "bbox_AP"},
        **{"protocol": "voc-frcnn-c4-24k-v1[batch=2]", "value": 1.0, "dirty": False, "device": "", "duration_s": 1.0},
        started="2026-11-22T10:00:00+00:00",
    )
    evaluation = Evaluation.parse(VOC, run)
    assert evaluation == Evaluation(VOC, "scenes")
    assert evaluation.recorded(run, [row]) == [row]
    assert evaluation.recorded(replace(run, detection=DetectionSettings(batch=2)), [row]) == [row]
    assert evaluation.recorded(replace(run, detection=DetectionSettings(batch=16)), [row]) == []
    assert evaluation.recorded(replace(run, detection=DetectionSettings(trials=1)), [row]) == []
    assert Evaluation.parse(VOC, tiny(changes={"data.dataset": "imagenet100"})) == Evaluation(VOC, VOC)
