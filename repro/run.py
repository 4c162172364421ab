"""Run: one frozen, typed description of an experiment, and the identity that follows from its content.

A `Run` is read from defaults, the settings of a method's row, a YAML file and `key.sub=value` overrides, in this
order, and never changes afterwards. No torch is imported here: tables and launchers read runs too.

Values without a source in a comment are the paper's recipe for MoCo v2 on ImageNet-100 (released `main_moco.py` and
README).
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.errors import UserError
from repro.limits import problems


class Framework(StrEnum):
    """The contrastive substrate that a method trains on."""

    mocov2 = "mocov2"


class Strategy(StrEnum):
    """What stands where a patch was masked."""

    none = "none"
    high_pass = "high_pass"
    strong_blur = "strong_blur"
    mean_fill = "mean_fill"


class Guidance(StrEnum):
    """Whether patches are drawn by saliency stratum or uniformly."""

    saliency = "saliency"
    random = "random"


class Branch(StrEnum):
    """The view that is masked (Table 3)."""

    query = "query"
    key = "key"
    both = "both"


class Source(StrEnum):
    """Whose behaviour is followed where the authors' published equations and released code differ."""

    paper = "paper"
    released = "released"


class Backend(StrEnum):
    """Who applies the drawn augmentation: batched on the device, or PIL image by image in the workers."""

    device = "device"
    reference = "reference"


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def outside_identity(default: Any) -> Any:
    """A field that says how or where a run is carried out, not what it is: it has no part in the run's id."""
    factory = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(**factory, metadata={"identity": False})


def added(default: Any, *, absent: Any) -> Any:
    """A field that came after runs had been made.

    Args:
        default: what new runs get.
        absent: what older runs, which lack the field, did. A run with this value keeps the id that it had before the
            field existed. Never change it, also where `default` changes.
    """
    return field(default=default, metadata={"absent": absent})


@dataclass(frozen=True)
class Scenes:
    """The built-in data set, `repro.scenes`."""

    classes: int = 10
    size: int = 96  # side of a scene in pixels
    train_count: int = 1024
    val_count: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """What is learned from."""

    dataset: str = "imagenet100"
    crop: int = 224  # side of a view in pixels
    scenes: Scenes = field(default_factory=Scenes)


@dataclass(frozen=True)
class Augmentation:
    """MoCo v2's random views (released main_moco.py:247-259)."""

    backend: Backend = Backend.device
    crop_scale_min: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma_min: float = 0.1
    blur_sigma_max: float = 2.0
    flip_probability: float = 0.5


@dataclass(frozen=True)
class Localizer:
    """The frozen network whose activations are the saliency map (released main_moco.py:287-292)."""

    network: str = "resnet50"  # "resnet50", "efficientnet-lite0", "timm/NAME" or "checkpoint"
    weights: str = "IMAGENET1K_V2"  # of torchvision's ResNet-50; "random"; or the path of a checkpoint
    relax: float = 0.6  # foreground: activation >= mean - relax * std


@dataclass(frozen=True)
class Masking:
    """Which patches are masked, and with what (released main_moco.py:294-302, random_mask_hp.py:128-136)."""

    strategy: Strategy = Strategy.none
    guidance: Guidance = Guidance.saliency
    branch: Branch = Branch.query
    hard_negative: bool = True
    ratio_min: float = 0.05
    ratio_max: float = 0.25
    hard_ratio_min: float = 0.4
    hard_ratio_max: float = 0.7
    focal_probability: float = 0.2  # high-pass only, as are the next two
    spatial_share: float = 0.3  # of what is not focal; the rest is channel-wise
    noise_std: float = 0.18
    hard_noise_std: float = 0.14


@dataclass(frozen=True)
class Fidelity:
    """One switch for each divergence between the published equations and the released code."""

    saliency_map: Source = Source.paper  # B1: each row of the map sorted
    hard_negative: Source = Source.paper  # B2: image 0 of the batch is everybody's hard negative
    noise: Source = Source.paper  # B4: one noise tile for the whole batch
    cap: Source = Source.paper  # B5: share of masked foreground patches capped at .55 (high-pass)
    counts: Source = Source.paper  # B6: total rounded down, background takes the whole deficit
    negative_count: Source = Source.paper  # B7: a count of -1 masks all but one
    single_patch: Source = Source.paper  # B8: a stratum of exactly one patch is never masked

    def __str__(self) -> str:
        """`paper`, `released`, or `paper, released: NAME, NAME`."""
        released = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is Source.released]
        if not released:
            return "paper"
        return (
            "released" if len(released) == len(dataclasses.fields(self)) else f"paper, released: {', '.join(released)}"
        )


@dataclass(frozen=True)
class Encoder:
    """The network that is trained."""

    arch: str = "resnet50"
    dim: int = 128  # of the embedding


@dataclass(frozen=True)
class Moco:
    """MoCo v2 with a weighted hard negative (released moco/builder.py)."""

    momentum: float = 0.999
    queue: int = 65536
    temperature: float = 0.2
    hard_negative_weight: float = 2.0  # the paper's rho
    bn_splits: int = 4  # batch-norm groups of one global batch: 4 x 32, as on the paper's 4 GPUs


@dataclass(frozen=True)
class Optimization:
    """SGD with a per-epoch cosine, without warm-up."""

    epochs: int = 200
    batch: int = 128  # over all devices
    lr: float = 0.015
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: Precision = Precision.fp32


@dataclass(frozen=True)
class Probe:
    """Linear evaluation, protocol `linear-moco-v1` (MoCo main_lincls.py): the defaults are the protocol."""

    epochs: int = 100
    batch: int = 256
    lr: float = 30.0
    momentum: float = 0.9
    weight_decay: float = 0.0

    @property
    def protocol(self) -> str:
        """`linear-moco-v1`, with every departure from it named: `linear-moco-v1[epochs=20]`."""
        changed = [
            f"{f.name}={getattr(self, f.name):g}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return "linear-moco-v1" + (f"[{','.join(changed)}]" if changed else "")


@dataclass(frozen=True)
class Machine:
    """How a run is carried out here. Nothing in it changes a result on one kind of device."""

    data_root: str = ""  # of the data set; empty: $SALMASK_DATA or ~/.config/salmask/data.yaml
    device: str = "auto"  # "auto", "cpu" or "cuda"
    workers: int = 4  # decoding processes for each device
    log_every: int = 20  # steps
    checkpoint_every: int = 500  # steps; the end of an epoch is always kept
    channels_last: bool = False


@dataclass(frozen=True)
class Run:
    """One experiment: a method on a data set with a seed."""

    method: str = outside_identity("mocov2")  # a name; what it means stands in the other fields
    framework: Framework = Framework.mocov2
    seed: int = 0
    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    localizer: Localizer = field(default_factory=Localizer)
    masking: Masking = field(default_factory=Masking)
    fidelity: Fidelity = field(default_factory=Fidelity)
    encoder: Encoder = field(default_factory=Encoder)
    moco: Moco = field(default_factory=Moco)
    optimization: Optimization = field(default_factory=Optimization)
    probe: Probe = outside_identity(Probe)  # noqa: RUF009 (a field, as `field()` is)
    machine: Machine = outside_identity(Machine)  # noqa: RUF009

    def __post_init__(self) -> None:
        """Refuse what could only fail later.

        Raises:
            UserError: two settings exclude each other, or a value is out of its range.
        """
        for problem in problems(self):
            raise UserError(problem)

    @property
    def id(self) -> str:
        """Ten hex digits from the content of the run; equal for equal experiments, on any Python."""
        return _digest(identity(self))

    @property
    def recipe(self) -> str:
        """Ten hex digits from the content of the run without its seed: runs of one recipe may be averaged."""
        return _digest({name: value for name, value in identity(self).items() if name != "seed"})

    @property
    def folder(self) -> str:
        """`METHOD/sSEED-ID`, the run's place below its sweep."""
        return f"{self.method}/s{self.seed}-{self.id}"

    @property
    def departures(self) -> tuple[str, ...]:
        """In what the run is smaller than the paper's; a run with any is *tiny* and watermarked in every table."""
        data, optimization = self.data, self.optimization
        found = []
        if data.dataset.startswith("scenes"):
            scenes = data.scenes
            found.append(f"{data.dataset} ({scenes.classes} classes, {scenes.train_count} images)")
        if self.encoder.arch != "resnet50":
            found.append(self.encoder.arch)
        if data.crop < 224:
            found.append(f"{data.crop} px")
        if optimization.epochs < 200:
            found.append(f"{optimization.epochs} epochs")
        if optimization.batch != 128:
            found.append(f"batch {optimization.batch}")
        if self.moco.queue != 65536:
            found.append(f"queue {self.moco.queue}")
        return tuple(found)

    @property
    def masks(self) -> bool:
        """Whether anything is masked."""
        return self.masking.strategy is not Strategy.none

    @property
    def needs_localizer(self) -> bool:
        """Whether a saliency map is computed at all."""
        return self.masks and self.masking.guidance is Guidance.saliency

    def replace(self, overrides: Mapping[str, Any]) -> "Run":
        """A copy with `{"section.key": value}` changed."""
        return build([overrides], base=self)

    def to_yaml(self) -> str:
        """The whole run, as `run.yaml` holds it."""
        return yaml.safe_dump(plain(self), sort_keys=False)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def identity(value: Any) -> Any:
    """The part of a run that its id is made of, as JSON values.

    Every field counts with its value, so an id keeps its meaning when a default changes. Left out are fields that are
    no part of the identity and fields added later that hold what older runs did (`added`).
    """
    if not dataclasses.is_dataclass(value):
        return value.name if isinstance(value, Enum) else value
    content = {}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        if f.metadata.get("identity", True) and not ("absent" in f.metadata and item == f.metadata["absent"]):
            # 1 and 1.0 are the same learning rate, but not the same JSON.
            content[f.name] = float(item) if f.type is float else identity(item)
    return content


def plain(value: Any) -> Any:
    """A dataclass as nested dictionaries of YAML's own types."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value.name if isinstance(value, Enum) else value


def keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a dataclass with its type."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(f.type) and isinstance(f.type, type):
            found |= keys(f.type, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = f.type
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`; `fidelity: released` is short for all of its switches."""
    tree: dict[str, Any] = {}
    for dotted, value in _flatten(flat):
        node = tree
        *parents, leaf = dotted.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if dotted == "fidelity" and not isinstance(value, Mapping):
            yield from ((f"fidelity.{f.name}", value) for f in dataclasses.fields(Fidelity))
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def _check_keys(tree: Mapping[str, Any], known: Iterable[str], origin: str) -> None:
    known = list(known)
    sections = {name.rpartition(".")[0] for name in known}
    for dotted, _ in _flatten(tree):
        if dotted in known:
            continue
        if dotted in sections:
            raise UserError(
                f"{origin}: '{dotted}' is a section; set its keys, for example {dotted}.{_first(known, dotted)}"
            )
        same_leaf = [k for k in known if k.rpartition(".")[2] == dotted.rpartition(".")[2]]
        close = same_leaf or difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
        if not close:
            leaves = {k.rpartition(".")[2]: k for k in known}
            close = [leaves[k] for k in difflib.get_close_matches(dotted.rpartition(".")[2], leaves, n=1, cutoff=0.5)]
        hint = (
            f"; did you mean '{close[0]}'?"
            if close
            else f"; the top-level keys are: {', '.join(dict.fromkeys(k.partition('.')[0] for k in known))}"
        )
        raise UserError(f"{origin}: unknown key '{dotted}'{hint}")


def _first(known: Iterable[str], section: str) -> str:
    return next(k for k in known if k.startswith(f"{section}.")).rpartition(".")[2]


def build(layers: Sequence[Mapping[str, Any]], *, base: Run | None = None, origin: str = "settings") -> Run:
    """A run from layers of nested settings, later ones winning.

    Raises:
        UserError: an unknown key (with the nearest right one) or a value of a wrong type.
    """
    config = OmegaConf.structured(base or Run)
    assert isinstance(config, DictConfig)
    _thaw(config)
    types = keys(Run)
    for layer in layers:
        tree = nested(layer)
        _check_keys(tree, types, origin)
        for dotted, value in _flatten(tree):
            if isinstance(value, bool) is not (types[dotted] is bool):  # OmegaConf would read True as 1 and 7 as True
                raise UserError(_wrong_type(origin, dotted, value, types[dotted]))
            try:
                OmegaConf.update(config, dotted, value)
            except OmegaConfBaseException as error:
                raise UserError(_wrong_type(origin, dotted, value, types[dotted])) from error
    made = OmegaConf.to_object(config)
    assert isinstance(made, Run)
    return made


def _wrong_type(origin: str, dotted: str, value: Any, kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{origin}: {dotted}={value} is none of: {', '.join(member.name for member in kind)}"
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))
    return f"{origin}: {dotted}={value} is not {expected}"


def _thaw(config: DictConfig) -> None:
    """OmegaConf takes a frozen dataclass for a read-only node; it is filled here, once."""
    OmegaConf.set_readonly(config, False)
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            _thaw(node)


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UserError: the file is missing, no YAML, or no mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config file {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"config file {path} holds no settings of the form `key: value`")
    return {str(key): value for key, value in content.items()}


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`["seed=1", "data.crop=64"]` as a nested dictionary, values read as YAML.

    Raises:
        UserError: an item has no `=`.
    """
    flat: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"'{item}' is no setting; write key.sub=value, for example seed=1 or data.crop=64")
        try:
            flat[key] = OmegaConf.from_dotlist([f"v={value}"]).v
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"'{item}': the value is no YAML: {' '.join(str(error).split())}") from error
    return nested(flat)


def load(path: Path) -> Run:
    """Read a run back from its `run.yaml`.

    Raises:
        UserError: the file is missing, broken, or was written by a version with other keys.
    """
    return build([read_yaml(path)], origin=str(path))
