import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from export_samples import CROP, exported, trained
from PIL import Image
from run_samples import RESULT, begun
from safetensors import safe_open
from torchvision.transforms.v2 import functional as tvf
from training_samples import OURS

from downstream.adoption import adopt
from repro.backbones.backbone import load_backbone, save_backbone
from repro.backbones.weights import weights_digest
from repro.contrastive.encoders import build_encoder
from repro.errors import UserError
from repro.masking.filters import high_pass
from repro.runs.folder import RunFolder
from repro.runs.records import append, read
from repro.settings.reading import FOLDERS
from repro.settings.run import Run

LIBRARIES = ("torchvision", "timm", "detectron2", "huggingface")


@pytest.fixture(scope="session")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("filtered"), OURS)


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("deep"), OURS, encoder__arch="resnet50")


@pytest.fixture(scope="session")
def image() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC)


def own_features(folder: RunFolder, image: Image.Image) -> torch.Tensor:
    """The linear probe's features: the image is resized, cropped, normalised and filtered, then passes the backbone."""
    backbone = load_backbone(folder.backbone)
    resized = tvf.resize(image, [round(CROP * 256 / 224)], Image.Resampling.BILINEAR)
    pixels = tvf.pil_to_tensor(tvf.center_crop(resized, [CROP, CROP])).float() / 255
    images = tvf.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).unsqueeze(0)
    with torch.inference_mode():
        return backbone.network.eval()(high_pass(images) if backbone.input_filter == "high_pass" else images)


def card_code(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def card_features(place: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the card's code computes if a stranger runs it in the folder."""
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"image": image}
    exec(compile(card_code((place / "README.md").read_text()), "README.md", "exec"), names)
    return names["output"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["plain", "filtered"])
def test_the_cards_own_code_computes_the_runs_features(
    library: str,
    method: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    image: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if library == "detectron2":
        pytest.importorskip("detectron2")
    folder: RunFolder = request.getfixturevalue(method)
    expected = own_features(folder, image)
    features = card_features(exported(folder, library, tmp_path / "out"), image, monkeypatch)
    assert features.shape == (1, 512)
    assert expected.std() > 0.01
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_resnet_50_comes_through_too(
    library: str, deep: RunFolder, tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "detectron2":
        pytest.importorskip("detectron2")
    features = card_features(exported(deep, library, tmp_path / "out"), image, monkeypatch)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, own_features(deep, image), atol=1e-4, rtol=1e-3)


def test_every_weight_is_in_every_file(filtered: RunFolder, tmp_path: Path) -> None:
    state = load_backbone(filtered.backbone).network.state_dict()
    folders = {library: exported(filtered, library, tmp_path / library) for library in LIBRARIES}
    torchvision = torch.load(folders["torchvision"] / "resnet18.pth", weights_only=True)
    assert list(torchvision) == list(state)
    assert all(torch.equal(torchvision[name], tensor) for name, tensor in state.items())
    for file in (folders["timm"] / "resnet18.safetensors", folders["huggingface"] / "model.safetensors"):
        with safe_open(file, "pt") as weights:
            assert set(weights.keys()) == set(state)
            assert all(torch.equal(weights.get_tensor(name), tensor) for name, tensor in state.items())
            assert weights.metadata()["input_filter"] == "high_pass"
    content = pickle.loads((folders["detectron2"] / "resnet18.pkl").read_bytes())
    assert (content["__author__"], content["matching_heuristics"]) == ("salmask", True)
    assert len(content["model"]) == len(state)
    assert np.array_equal(content["model"]["res3.0.shortcut.weight"], state["layer2.0.downsample.0.weight"].numpy())
    for library, folder in folders.items():
        facts = json.loads((folder / "salmask.json").read_text())
        assert facts["sha256"] == weights_digest(state)
        assert (facts["input_filter"], facts["features"], facts["arch"]) == ("high_pass", 512, "resnet18")
        assert (folder / facts["weights"]).is_file(), library


def test_detectron2_loads_every_weight_of_a_c4_detector(plain: RunFolder, tmp_path: Path) -> None:
    config = pytest.importorskip("detectron2.config")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    cfg = config.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    model = build_model(cfg)
    folder = exported(plain, "detectron2", tmp_path / "out")
    DetectionCheckpointer(model).load(str(folder / "resnet18.pkl"))
    state = load_backbone(plain.backbone).network.state_dict()
    assert torch.equal(model.backbone.stem.conv1.weight, state["conv1.weight"])
    assert torch.equal(model.backbone.res4[1].conv2.norm.running_var, state["layer3.1.bn2.running_var"])


# The card


def card(place: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (place / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_tells_method_data_protocol_results_and_licence(evaluated: RunFolder, tmp_path: Path) -> None:
    append(evaluated.results, [replace(read(evaluated.results)[0][0], task="logistic", metric="l2", value=1.2e-4)])
    front, text = card(exported(evaluated, "huggingface", tmp_path / "out", "--licence", "apache-2.0"))
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "timm"
    assert "# mocov2+ours-hp: resnet18 on scenes, seed 4" in text
    assert "| linear | scenes val | linear-moco-v1 | top1 | 43.22 |" in text
    assert "| linear | scenes val | linear-moco-v1 | top5 | 80.00 |" in text
    assert "| l2 | 0.00012 |" in text
    assert "99.99" not in text
    assert "| masking | high_pass |" in text
    assert "| hard negative | weight 2 |" in text
    assert "| saliency | source network; network efficientnet-lite0, weights pretrained |" in text
    assert (
        "scenes, without its labels; masks were guided by a localizer trained with ImageNet's labels "
        "(fingerprint: train `75656031161e`)."
    ) in text
    assert f"trained by commit `{RESULT.commit}` on NVIDIA H100" in text
    assert "The weights: apache-2.0.\nThe data come under terms of their own" in text
    assert text.count("Tiny mode: ") == 2
    assert "**Tiny mode: scenes (8 classes, 20 images), resnet18, 64 px" in text
    assert "**High-passed input.**" in text
    assert "gaussian_blur" in card_code(text)


@pytest.mark.parametrize(
    ("changes", "saliency", "known"),
    [
        (
            {"localizer.network": "resnet50", "localizer.hard_negative_source": "truth"},
            "source network, of hard negatives truth; network resnet50, weights IMAGENET1K_V2",
            "; masks were guided by a localizer trained with ImageNet's labels and the objects' true masks",
        ),
        ({"localizer.source": "inverted"}, "source inverted", "; masks were guided by the objects' true masks"),
        ({"localizer.source": "centre"}, "source centre", ""),
        ({"localizer.weights": "random"}, "source network; network efficientnet-lite0, untrained", ""),
        (
            {"localizer.network": "checkpoint", "localizer.weights": "/home/b.pth", "localizer.sha256": "1" * 64},
            f"source network; network: a backbone of SHA-256 {'1' * 64}",
            "; masks were guided by a localizer that another run trained",
        ),
        (
            {
                "data.dataset": "folder",
                "localizer.source": "maps",
                "localizer.files": "/home/maps",
                "localizer.files_sha256": "2" * 64,
            },
            f"source maps; maps of SHA-256 {'2' * 64}",
            "; masks were guided by saliency maps from elsewhere, which may have seen labels",
        ),
        (
            {
                "data.dataset": "folder",
                "localizer.source": "random",
                "data.masks": "/home/masks",
                "data.masks_sha256": "3" * 64,
            },
            f"source random; true masks of SHA-256 {'3' * 64}",
            "; masks were guided by the objects' true masks",
        ),
        (  # the masks only measured, and guided nothing
            {"data.dataset": "folder", "localizer.source": "centre", "data.masks": "/home/masks"},
            "source centre",
            "",
        ),
        ({"masking.guidance": "random"}, "", ""),
    ],
)
def test_the_card_says_what_guided_the_masks(
    changes: dict[str, Any], saliency: str, known: str, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "run", OURS, **{name.replace(".", "__"): value for name, value in changes.items()})
    _, text = card(exported(folder, "timm", tmp_path / "out"))
    rows = [line for line in text.splitlines() if line.startswith("| saliency | ")]
    assert rows == ([f"| saliency | {saliency} |"] if saliency else [])
    dataset = changes.get("data.dataset", "scenes")
    assert f"{dataset}, without its labels{known} (fingerprint: " in text
    assert "/home" not in text + (tmp_path / "out" / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("method", "changes", "masked", "hard_negative"),
    [
        ("mocov2", {}, "nothing", "none"),
        ("mocov2+ours-blur", {"moco.hard_negative_weight": 0.0}, "query, patches drawn by saliency", "weight 0"),
        ("simclr+mscn", {}, "both, patches drawn by random", "none"),
        ("simclr+adios", {}, "query, masks drawn by a network that is trained with it", "none"),
    ],
)
def test_the_card_says_what_was_masked(
    method: str, changes: dict[str, Any], masked: str, hard_negative: str, tmp_path: Path
) -> None:
    _, text = card(exported(trained(tmp_path / "run", method, **changes), "timm", tmp_path / "out"))
    assert f"| masked | {masked} |" in text
    assert f"| hard negative | {hard_negative} |" in text


def test_a_plain_run_that_was_not_evaluated_says_so(plain: RunFolder, tmp_path: Path) -> None:
    front, text = card(exported(plain, "torchvision", tmp_path / "out"))
    assert front["license"] == "other"
    assert "None: this run has not been evaluated." in text
    assert "High-passed" not in text
    assert "gaussian_blur" not in text
    assert "No licence was named for the weights." in text
    assert "| hard negative | none |" in text


def test_a_run_of_the_papers_scale_has_no_watermark(tmp_path: Path) -> None:
    from baselines import resolve

    run: Run = resolve("mocov2")
    folder = begun(tmp_path / "full", run)
    state = build_encoder("resnet50", 128).state_dict()
    save_backbone(folder.backbone, state, arch="resnet50", input_filter="none", run_id=run.id)
    _, text = card(exported(folder, "timm", tmp_path / "out"))
    assert "iny mode" not in text
    assert "ImageNet's terms of access" in text


def test_nothing_of_the_machine_that_trained_goes_along(tmp_path: Path) -> None:
    folders = {key.replace(".", "__"): f"/home/somebody/{key}" for key in FOLDERS}
    assert "machine__data_cache" in folders
    folder = trained(tmp_path / "run", **folders)
    place = exported(folder, "huggingface", tmp_path / "out")
    for file in place.iterdir():
        content = file.read_bytes()
        assert b"somebody" not in content, file.name
        assert b"node1" not in content, file.name
    again = RunFolder(place).load()
    assert again.id == folder.load().id


def test_weights_from_elsewhere_claim_no_training_of_ours(
    plain: RunFolder, tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "runs", load_backbone(plain.backbone).network.state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    settings = {"data": {"crop": CROP}}
    options = {"arch": "resnet18", "name": "theirs", "prefix": "", "input_filter": "none"}
    _, folder = adopt(tmp_path / "theirs.pth", **options, settings=settings, out=out)
    export = exported(folder, "timm", tmp_path / "out")
    _, text = card(export)
    assert "# theirs: resnet18\n" in text
    assert "| framework | unknown: the weights were trained elsewhere |\n| file | theirs.pth |" in text
    assert "## Data\n\nUnknown: the weights were trained elsewhere." in text
    assert "trains it again" not in text
    assert str(tmp_path) not in text + (export / "run.yaml").read_text()
    assert RunFolder(export).load().id == folder.load().id
    torch.testing.assert_close(
        card_features(export, image, monkeypatch), own_features(plain, image), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18.pth"), ("timm", "resnet18.safetensors")])
def test_an_export_that_is_taken_back_keeps_its_filter(
    filtered: RunFolder, library: str, name: str, tmp_path: Path
) -> None:
    place = exported(filtered, library, tmp_path / "out")
    options = {"arch": "resnet18", "name": "again", "prefix": "", "input_filter": "none", "settings": {}}
    run, _ = adopt(place / name, **options, out=tmp_path / "runs")
    assert run.imported.input_filter == "high_pass"


def test_the_facts_of_an_export_speak_of_its_own_weights_alone(
    filtered: RunFolder, plain: RunFolder, tmp_path: Path
) -> None:
    place = exported(filtered, "torchvision", tmp_path / "out")
    state = load_backbone(plain.backbone).network.state_dict()
    state["conv1.weight"] = state["conv1.weight"] * 2
    torch.save(state, place / "other.pth")
    options = {"arch": "resnet18", "name": "", "prefix": "", "input_filter": "none", "settings": {}}
    run, _ = adopt(place / "other.pth", **options, out=tmp_path / "runs")
    assert run.imported.input_filter == "none"
    (place / "salmask.json").write_text("{}")
    with pytest.raises(UserError, match=r"salmask\.json has no field 'sha256'"):
        adopt(place / "resnet18.pth", **options, out=tmp_path / "runs")
