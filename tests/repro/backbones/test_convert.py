import pytest
import torch
from torchvision.models import get_model

from repro.backbones.convert import to_detectron2
from repro.errors import UserError


def state(arch: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return get_model(arch, weights=None).state_dict()


def moco_script(key: str) -> str:
    """The renaming of MoCo's convert-pretrain-to-detectron2.py, written out; correct for the keys that it knows."""
    if "layer" not in key:
        key = "stem." + key
    for t in (1, 2, 3, 4):
        key = key.replace(f"layer{t}", f"res{t + 1}")
    for t in (1, 2, 3):
        key = key.replace(f"bn{t}", f"conv{t}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_keys_become_those_of_mocos_script(arch: str) -> None:
    whole = state(arch)
    backbone = {key: value for key, value in whole.items() if not key.startswith("fc.")}
    converted = to_detectron2(whole)
    assert list(converted) == [moco_script(key) for key in backbone]
    assert all(ours is value for ours, value in zip(converted.values(), backbone.values(), strict=True))


@pytest.mark.parametrize(("arch", "depth"), [("resnet18", 18), ("resnet50", 50)])
def test_the_names_are_those_of_detectron2s_own_resnet(arch: str, depth: int) -> None:
    build = pytest.importorskip("detectron2.modeling.backbone.resnet")
    block = build.BasicBlock if depth == 18 else build.BottleneckBlock
    channels = [64, 128, 256, 512] if depth == 18 else [256, 512, 1024, 2048]
    settings = {"norm": "BN", **({} if depth == 18 else {"stride_in_1x1": False})}
    stages = build.ResNet.make_default_stages(depth, block, **settings)
    with torch.device("meta"):
        model = build.ResNet(build.BasicStem(norm="BN"), stages, out_features=["res5"])
    expected = {key: value.shape for key, value in model.state_dict().items()}
    converted = {key: value.shape for key, value in to_detectron2(state(arch)).items()}
    assert converted == expected
    assert [stage[-1].out_channels for stage in stages] == channels


def test_every_key_that_does_not_belong_is_listed() -> None:
    strays = ["module.encoder_q.conv1.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "conv1.weight.extra"]
    with pytest.raises(UserError) as refused:
        to_detectron2({**dict.fromkeys(strays, 0), "conv1.weight": 0})
    assert str(refused.value).startswith(
        f"4 ({', '.join(strays)}) keys of the weights are not those of a torchvision ResNet"
    )
    with pytest.raises(UserError, match="no weights of a torchvision ResNet"):
        to_detectron2({"fc.weight": 0})
