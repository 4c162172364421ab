"""Run: one frozen, typed description of an experiment; its id follows from its content (`repro.runs.identity`).

A `Run` is read from defaults, the settings of a method's row, a YAML file and `key.sub=value` overrides, in this
order, and never changes afterwards. No torch is imported here: tables and launchers read runs too.

Values without a source in a comment are the paper's recipe for MoCo v2 on ImageNet-100 (released `main_moco.py` and
README). What the other frameworks do otherwise stands in `baselines/recipes.py`.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum

import yaml

from repro.errors import UserError
from repro.runs.detection import Detection
from repro.runs.evaluation import Finetune, Knn, Logistic, Probe
from repro.runs.identity import added, digest, identity, outside_identity, plain
from repro.runs.limits import problems


class Framework(StrEnum):
    """What a method trains on: one of two contrastive substrates, or labels; `external` weights came from elsewhere."""

    mocov2 = "mocov2"
    simclr = "simclr"
    supervised = "supervised"
    external = "external"


class Strategy(StrEnum):
    """What stands where a patch was masked; `learned` masks are drawn by a network that is trained too (ADIOS)."""

    none = "none"
    high_pass = "high_pass"
    strong_blur = "strong_blur"
    mean_fill = "mean_fill"
    learned = "learned"


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


class Interpolation(StrEnum):
    """How a crop is resized."""

    bilinear = "bilinear"
    bicubic = "bicubic"


class Anchor(StrEnum):
    """The views that meet the hard negative in SimCLR's loss."""

    query = "query"
    both = "both"


class Optimizer(StrEnum):
    """SGD with momentum; `lars` scales each layer's step by the ratio of its norm and its gradient's."""

    sgd = "sgd"
    lars = "lars"


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up: along a cosine to 0, or by a tenth at each step."""

    cosine = "cosine"
    steps = "steps"


class Interval(StrEnum):
    """When the learning rate changes."""

    epoch = "epoch"
    step = "step"


class Norm(StrEnum):
    """Normalisation inside the occlusion network."""

    group = "group"
    instance = "instance"
    none = "none"


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(frozen=True)
class Scenes:
    """The built-in data set, `repro.scenes.dataset`."""

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
    interpolation: Interpolation = added(Interpolation.bilinear, absent=Interpolation.bilinear)
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
    # Of torchvision's ResNet-50; "random"; or the path of a checkpoint, for which its content counts.
    weights: str = field(default="IMAGENET1K_V2", metadata={"unless": "sha256"})
    relax: float = 0.6  # foreground: activation >= mean - relax * std
    sha256: str = added("", absent="")  # of the checkpoint, see `repro.runs.reading.pinned`


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
class Simclr:
    """SimCLR with a weighted hard negative. The paper states none of it; defaults: ADIOS, solo-learn (simclr.yaml).

    Batch norm is synchronised over devices: its groups are whole global batches, one for each view.
    """

    temperature: float = 0.2
    hard_negative_weight: float = 2.0  # rho, as on MoCo; it weighs more among 510 negatives than among 65,536
    hard_negative_anchor: Anchor = Anchor.query
    hard_negative_stopgrad: bool = False


@dataclass(frozen=True)
class Adios:
    """ADIOS (Shi et al. 2022), with `masking.strategy=learned`; values of its bash_files/imagenet100/simclr_adios_s.sh.

    The occlusion network is optimised by LARS, whatever optimises the encoder, on the encoder's schedule.
    """

    masks: int = 4
    single: bool = True  # one random mask for each image and step (ADIOS-s); otherwise all of them (ADIOS)
    base_filters: int = 8  # of the occlusion network, a U-Net
    norm: Norm = Norm.group
    lr: float = 0.49876  # of the occlusion network
    momentum: float = 0.9
    weight_decay: float = 1e-4
    alpha_sparsity: float = 0.75  # penalty on masks that hide nothing or everything
    alpha_entropy: float = 0.0  # weight of the entropy over the masks' sizes


@dataclass(frozen=True)
class Optimization:
    """How the encoder is optimised."""

    epochs: int = 200
    batch: int = 128  # over all devices
    lr: float = 0.015
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: Precision = Precision.fp32
    optimizer: Optimizer = added(Optimizer.sgd, absent=Optimizer.sgd)
    lars_eta: float = added(0.02, absent=0.02)  # trust coefficient (solo-learn)
    schedule: Schedule = added(Schedule.cosine, absent=Schedule.cosine)
    step_share: float = added(0.3, absent=0.3)  # of the epochs between two steps of `steps`
    warmup_share: float = added(0.0, absent=0.0)  # of the epochs, over which the rate rises linearly
    interval: Interval = added(Interval.epoch, absent=Interval.epoch)


@dataclass(frozen=True)
class Imported:
    """Weights that were not trained here; how they were, no other setting of the run tells."""

    weights: str = ""  # SHA-256 of the backbone's tensors
    input_filter: str = "none"  # or "high_pass": what the weights were trained on
    origin: str = outside_identity("")  # the file that they came from


@dataclass(frozen=True)
class Machine:
    """How a run is carried out here. Nothing in it changes a result on one kind of device."""

    data_root: str = ""  # of the data set; empty: $SALMASK_DATA or ~/.config/salmask/data.yaml
    device: str = "auto"  # "auto", "cpu" or "cuda"
    workers: int = 4  # decoding processes for each device
    log_every: int = 20  # steps
    checkpoint_every: int = 500  # steps; the end of an epoch is always kept
    channels_last: bool = False


PAPER_SCALE = {Framework.mocov2: (200, 128), Framework.simclr: (200, 256), Framework.supervised: (100, 256)}
"""Epochs and global batch at which a framework's rows are no *tiny* ones."""


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
    simclr: Simclr = added(Simclr(), absent=Simclr())
    adios: Adios = added(Adios(), absent=Adios())
    optimization: Optimization = field(default_factory=Optimization)
    imported: Imported = added(Imported(), absent=Imported())
    probe: Probe = outside_identity(Probe)
    logistic: Logistic = outside_identity(Logistic)
    knn: Knn = outside_identity(Knn)
    finetune: Finetune = outside_identity(Finetune)
    detection: Detection = outside_identity(Detection)
    machine: Machine = outside_identity(Machine)

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
        return digest(identity(self))

    @property
    def recipe(self) -> str:
        """Ten hex digits from the content of the run without its seed: runs of one recipe may be averaged."""
        return digest({name: value for name, value in identity(self).items() if name != "seed"})

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
        if self.framework is Framework.external:
            return tuple(found)
        epochs, batch = PAPER_SCALE[self.framework]
        if optimization.epochs < epochs:
            found.append(f"{optimization.epochs} epochs")
        if optimization.batch != batch:
            found.append(f"batch {optimization.batch}")
        if self.framework is Framework.mocov2 and self.moco.queue != 65536:
            found.append(f"queue {self.moco.queue}")
        return tuple(found)

    @property
    def masks(self) -> bool:
        """Whether patches are masked before the network sees a view; learned masks are the model's own."""
        return self.masking.strategy not in (Strategy.none, Strategy.learned)

    @property
    def needs_localizer(self) -> bool:
        """Whether a saliency map is computed at all."""
        return self.masks and self.masking.guidance is Guidance.saliency

    def to_yaml(self) -> str:
        """The whole run, as `run.yaml` holds it."""
        return yaml.safe_dump(plain(self), sort_keys=False)
