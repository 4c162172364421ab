"""Names of weights: the network is the same under any prefix and beside any head, and no two keys become one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from repro.backbones.convert import to_detectron2
from repro.backbones.foreign import TOP, read_foreign
from repro.backbones.resnet import resnet_of_width
from repro.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = resnet_of_width("resnet18", 4).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


PART = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(prefix=st.lists(PART, max_size=3), heads=st.lists(PART, max_size=3))
def test_weights_are_the_same_under_any_prefix(
    weights: dict[str, Tensor], place: Path, prefix: list[str], heads: list[str]
) -> None:
    start = "".join(f"{part}." for part in prefix)
    content = {start + name: value for name, value in weights.items()}
    content |= {f"head{number}.{head}.weight": torch.ones(2) for number, head in enumerate(heads)}
    torch.save(content, place / "x.pth")
    read = read_foreign(place / "x.pth", "resnet18", start or TOP, width=4)
    assert read.prefix == start
    assert all(torch.equal(read.state[name], value) for name, value in weights.items())


# Each refusal looks for the network that would fit, among all of torchvision's.
@settings(max_examples=settings.default.max_examples // 8)
@given(lost=st.integers(0, 10**6))
def test_a_network_that_lacks_a_weight_is_none(weights: dict[str, Tensor], place: Path, lost: int) -> None:
    missing = list(weights)[lost % len(weights)]
    torch.save({name: value for name, value in weights.items() if name != missing}, place / "x.pth")
    if missing.endswith("num_batches_tracked"):  # a counter that not every library keeps
        assert read_foreign(place / "x.pth", "resnet18", width=4).state[missing] == 0
        return
    with pytest.raises(UserError, match=r"it lacks 1|holds no ResNet"):
        read_foreign(place / "x.pth", "resnet18", width=4)


@pytest.mark.parametrize("write", [torch.save, save_file], ids=["torch", "safetensors"])
def test_two_weights_of_one_name_are_refused(
    weights: dict[str, Tensor], place: Path, write: Callable[[dict[str, Tensor], Path], None]
) -> None:
    """Of two such weights, the last one used to be taken without a message: another network than the user's."""
    write({**weights, "_orig_mod.conv1.weight": weights["conv1.weight"] + 1}, place / "twice.pth")
    with pytest.raises(UserError, match=r"twice\.pth holds two tensors under the name conv1\.weight; mend: rename one"):
        read_foreign(place / "twice.pth", "resnet18", width=4)


@pytest.mark.parametrize("shape", [(), (0, 3, 7, 7)])
def test_a_stem_without_planes_does_not_fit(weights: dict[str, Tensor], place: Path, shape: tuple[int, ...]) -> None:
    """A scalar in place of the stem's weight used to end in a traceback."""
    torch.save({**weights, "conv1.weight": torch.zeros(shape)}, place / "x.pth")
    with pytest.raises(UserError, match=r"has other shapes: 1 \(conv1\.weight \(.*, not 4×3×7×7\)\); mend: another"):
        read_foreign(place / "x.pth", "resnet18", width=4)


@pytest.mark.parametrize("odd", [torch.tensor(1j), torch.tensor(1).to_sparse(), torch.tensor(1, device="meta")])
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_counter_that_is_no_plain_number_is_refused(weights: dict[str, Tensor], place: Path, odd: Tensor) -> None:
    """A complex counter used to be adopted; every command on that run warned that its imaginary part is dropped."""
    torch.save({**weights, "bn1.num_batches_tracked": odd}, place / "x.pth")
    with pytest.raises(UserError, match=r"not floating-point numbers: 1 \(bn1\.num_batches_tracked\); mend: save"):
        read_foreign(place / "x.pth", "resnet18", width=4)
    for counted in (torch.tensor(3, dtype=torch.int32), torch.tensor(3.0, dtype=torch.float16)):
        torch.save({**weights, "bn1.num_batches_tracked": counted}, place / "x.pth")
        assert read_foreign(place / "x.pth", "resnet18", width=4).state["bn1.num_batches_tracked"] == 3


BLOCKS = st.integers(0, 40)
NORMS = st.sampled_from(["weight", "bias", "running_mean", "running_var", "num_batches_tracked"])
KEYS = (
    st.builds("layer{}.{}.conv{}.weight".format, st.integers(1, 4), BLOCKS, st.integers(1, 3))
    | st.builds("layer{}.{}.bn{}.{}".format, st.integers(1, 4), BLOCKS, st.integers(1, 3), NORMS)
    | st.builds("layer{}.{}.downsample.1.{}".format, st.integers(1, 4), BLOCKS, NORMS)
    | st.builds("layer{}.{}.downsample.0.weight".format, st.integers(1, 4), BLOCKS)
    | st.builds("bn1.{}".format, NORMS)
    | st.just("conv1.weight")
)


@given(names=st.lists(KEYS, min_size=1, unique=True), stray=st.none() | st.text(max_size=8))
def test_no_two_keys_become_one_of_detectron2(names: list[str], stray: str | None) -> None:
    state = {name: number for number, name in enumerate(names)}
    assert list(to_detectron2(state).values()) == list(state.values())
    if stray is not None and not stray.startswith("fc."):
        with pytest.raises(UserError, match="are not those of a torchvision ResNet"):
            to_detectron2({**state, stray: 0})
