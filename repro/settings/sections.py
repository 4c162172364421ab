"""The sections of a run's settings, a frozen dataclass each.

Values without a source in a comment are the paper's recipe for MoCo v2 on ImageNet-100 (released `main_moco.py` and
README). What the other frameworks do otherwise is their `recipe` in `repro.settings.frameworks`.
"""

import dataclasses
import math
import operator
import re
from dataclasses import dataclass, field
from enum import StrEnum, auto

from repro.settings.choices import (
    Anchor,
    Backend,
    Blur,
    Branch,
    FilterLibrary,
    Guidance,
    InputFilter,
    Interpolation,
    Interval,
    MapOf,
    NoiseArea,
    Norm,
    OnCollapse,
    Optimizer,
    Precision,
    Resizer,
    Schedule,
    Source,
    Strategy,
)
from repro.settings.detection import DetectionSettings
from repro.settings.identity import added, outside_identity, size
from repro.settings.protocols import FinetuneSettings, KnnSettings, LogisticSettings, ProbeSettings
from repro.settings.saliency_sources import SaliencySource, SourceKind


class Framework(StrEnum):
    """What a method learns by: a contrastive framework, or labels; `external` weights were trained elsewhere.

    It is defined here, not with the other choices, so that a framework's name, settings and field are in one file; the
    rest of it is in `repro.settings.frameworks`.
    """

    mocov2 = auto()
    simclr = auto()
    supervised = auto()
    external = auto()


def _is_drawn(dataset: str) -> bool:
    """Returns whether a data set consists of built-in scenes."""
    return dataset.startswith("scenes")


def _is_shallower(arch: str, other: str) -> bool:
    """Returns whether a network has fewer layers than another one, by the numbers in torchvision's names of ResNets."""
    layers, of_other = (int(re.findall(r"\d+|$", name)[0] or 0) for name in (arch, other))
    return layers < of_other


@dataclass(frozen=True)
class ScenesSettings:
    """The built-in data set, `repro.scenes.dataset`."""

    classes: int = 10  # kinds of objects; a scene shows one object, whose kind is its class
    size: int = 96  # side of a scene in pixels
    train_count: int = 1024  # scenes to learn from
    val_count: int = 512  # scenes to evaluate on
    seed: int = 0  # random seed of the drawing; the run's own seed does not change the data
    # Number of textures that all scenes' grounds are taken from; 0: each scene has a texture of its own.
    grounds: int = added(0, absent=0)
    context: float = added(0.0, absent=0.0)  # the probability that a scene's ground is one of its class's own grounds
    # Number of different objects of a class in training; validation shows none of them. 0: a drawn class is one outline
    # and pattern, in other colours in each scene, and a class of cut-outs is one file.
    members: int = added(0, absent=0)
    # The probability that an object, or with members a member, has its class's own colours instead of random ones.
    colour: float = added(0.0, absent=0.0)

    @property
    def description(self) -> str:
        """What the scenes are, in words: classes, training images, and any grounds, members and colours."""
        words = [f"{self.classes} classes", f"{self.train_count} images"]
        if self.grounds:
            context = f" (context {self.context:g})" if self.context else ""
            words.append(f"{self.grounds} grounds{context}")
        if self.members:
            words.append(f"{self.members} members a class")
        if self.colour:
            words.append(f"colours by class {self.colour:g}")
        return ", ".join(words)


@dataclass(frozen=True)
class DataSettings:
    """The training data."""

    # Drawn scenes stand in for photographs, and make a run tiny whatever their settings.
    dataset: str = size("imagenet100", lambda here, _: _is_drawn(here))  # `salmask data list` has all names
    crop: int = size(224)  # side of a view in pixels
    cached_side: int = added(0, absent=0)  # short side of decoded images to train on, 32 or more; 0: the originals
    scenes: ScenesSettings = size(ScenesSettings, lambda *_: True)
    masks: str = outside_identity("")  # a folder with the true mask of each training image; drawn scenes have their own
    # SHA-256 of the folder's files, set automatically if masks guide; masks that only measure are no part of the id.
    masks_sha256: str = added("", absent="")

    @property
    def drawn(self) -> bool:
        """Whether the images are built-in scenes: `scenes` of drawn shapes, or `scenes-cutouts` of pasted cut-outs."""
        return _is_drawn(self.dataset)


@dataclass(frozen=True)
class AugmentationSettings:
    """MoCo v2's random views (released main_moco.py:247-259)."""

    backend: Backend = Backend.device
    crop_scale_min: float = 0.2  # smallest share of the image's area in a crop; the largest is all of it
    interpolation: Interpolation = added(Interpolation.bilinear, absent=Interpolation.bilinear)
    resizer: Resizer = added(Resizer.pil, absent=Resizer.pil)
    brightness: float = 0.4  # largest change of the factor from 1, in either direction
    contrast: float = 0.4  # the same
    saturation: float = 0.4  # the same
    hue: float = 0.1  # largest rotation of the hues, either way, as a share of the colour circle
    jitter_probability: float = 0.8  # probability that a view's brightness, contrast, saturation and hue change
    grey_probability: float = 0.2  # probability that a view becomes grey
    blur_probability: float = 0.5  # probability that a view is blurred
    blur_sigma_min: float = 0.1  # smallest standard deviation of the blur, in pixels of the view; drawn uniformly
    blur_sigma_max: float = 2.0  # largest standard deviation of the blur
    flip_probability: float = 0.5  # probability that a view is mirrored, left to right
    blur: Blur = added(Blur.gaussian, absent=Blur.gaussian)  # kind of blur with `backend=device`

    @property
    def blur_taps(self) -> int:
        """The length of the Gaussian's kernel in pixels: four of the largest sigma to each side, but at least eight."""
        return 2 * max(8, math.ceil(4 * self.blur_sigma_max)) + 1


@dataclass(frozen=True)
class LocalizerSettings:
    """The frozen network whose activations are the saliency map (released main_moco.py:287-292)."""

    network: str = "resnet50"  # "resnet50", "efficientnet-lite0", "timm/NAME" or "checkpoint"
    # Name of torchvision's weights for ResNet-50; "random"; or the path of a checkpoint, of which the content counts.
    weights: str = field(default="IMAGENET1K_V2", metadata={"unless": "sha256"})
    relax: float = 0.6  # foreground: activation >= mean - relax * std
    sha256: str = added("", absent="")  # hash of the checkpoint, see `repro.settings.reading.pinned`
    map: MapOf = added(MapOf.view, absent=MapOf.view)
    source: str = added("network", absent="network")  # where the foreground comes from; docs/saliency.md lists all
    hard_negative_source: str = added("", absent="")  # the same for hard negatives; empty: as `source`
    # With `source=maps`: a folder with a map of each image; for the id, the files' contents count.
    files: str = added("", absent="", unless="files_sha256")
    files_sha256: str = added("", absent="")  # SHA-256 of the folder's files, set automatically
    image_side: int = added(256, absent=256)  # side of whole images in pixels: see `salmask bench saliency agreement`

    def by(self, source: str) -> "LocalizerSettings":
        """Returns the settings with another source of foreground for both roles, without files that it does not read.

        Args:
            source: As `source` names it.
        """
        files, digest = (self.files, self.files_sha256) if source == SourceKind.maps else ("", "")
        return dataclasses.replace(self, source=source, hard_negative_source="", files=files, files_sha256=digest)


@dataclass(frozen=True)
class MaskingSettings:
    """Which patches are masked, and with what (released main_moco.py:294-302, random_mask_hp.py:128-136)."""

    strategy: Strategy = Strategy.none
    guidance: Guidance = Guidance.saliency
    branch: Branch = Branch.query
    hard_negative: bool = True  # whether a copy of the key that loses much of its object is a negative
    ratio_min: float = 0.05  # smallest share of a view's patches that is masked; the share is drawn for each image
    ratio_max: float = 0.25  # largest share of a view's patches that is masked
    hard_ratio_min: float = 0.4  # smallest share of the foreground's patches that a hard negative loses; drawn likewise
    hard_ratio_max: float = 0.7  # largest share of the foreground's patches that a hard negative loses
    focal_probability: float = 0.2  # share of focal masks, which ignore saliency; high-pass only, as are the next four
    spatial_share: float = 0.3  # share of spatial masks among those that are not focal; the rest is channel-wise
    noise_std: float = 0.18  # standard deviation of the noise in masked patches, in units of the normalised image
    hard_noise_std: float = 0.14  # the same, in a hard negative
    noise_area: NoiseArea = added(NoiseArea.view, absent=NoiseArea.view)


@dataclass(frozen=True)
class FidelitySettings:
    """One switch for each divergence between the published equations and the released code.

    What the released code does once for each GPU (B2, B4), a run does once for each batch-norm group, since
    `moco.bn_splits` stands for the paper's GPUs. So one process computes the same as several. SimCLR was not released.
    Its batch norm spans the global batch, so it has no groups, and no released hard negative (refused); its noise as
    released is shared over the batch of a process.

    Two divergences have no switch. A map without contrast is all foreground (`repro.saliency.scda.foreground`); in the
    released code, rounding decides. And running statistics are the mean over all groups
    (`repro.contrastive.batch_norm`); a released checkpoint has those of its first GPU.
    """

    saliency_map: Source = Source.paper  # B1: each row of the map sorted
    hard_negative: Source = Source.paper  # B2: image 0 of a GPU's batch is the hard negative of all
    noise: Source = Source.paper  # B4: one noise tile for a GPU's whole batch
    cap: Source = Source.paper  # B5: a foreground mask of .56 of the view or more becomes .55 (high-pass)
    counts: Source = Source.paper  # B6: total rounded down, background takes the whole deficit
    negative_count: Source = Source.paper  # B7: a background count of -1 masks all but one
    single_patch: Source = Source.paper  # B8: a stratum of exactly one patch is never masked

    def __str__(self) -> str:
        """Returns `paper`, `released`, or `paper, released: NAME, NAME`."""
        # In the order of the fields: the text is part of every result, and rows are averaged where it is the same.
        released = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is Source.released]
        if not released:
            return "paper"
        return (
            "released" if len(released) == len(dataclasses.fields(self)) else f"paper, released: {', '.join(released)}"
        )


@dataclass(frozen=True)
class EncoderSettings:
    """The network that is trained."""

    arch: str = size("resnet50", _is_shallower)  # a ResNet of torchvision
    dim: int = 128  # dimensions of the embedding
    # Base planes: of the stem and the first stage, doubled at each further one; 64 is torchvision's network.
    width: int = added(64, absent=64, smaller=operator.lt)

    @property
    def network(self) -> str:
        """The network in words: `resnet18`, or `resnet18 of width 16`."""
        return self.arch if self.width == 64 else f"{self.arch} of width {self.width}"


@dataclass(frozen=True)
class MocoSettings:
    """MoCo v2 with a weighted hard negative (released moco/builder.py)."""

    momentum: float = 0.999  # share of the key encoder's weights that a step keeps
    queue: int = size(65536)  # number of keys of earlier batches, which serve as negatives
    temperature: float = 0.2  # similarities are divided by it
    hard_negative_weight: float = 2.0  # the paper's rho
    bn_splits: int = 4  # batch-norm groups of one global batch: 4 x 32, as on the paper's 4 GPUs


@dataclass(frozen=True)
class SimclrSettings:
    """SimCLR with a weighted hard negative. The paper gives no values; the defaults: ADIOS, solo-learn (simclr.yaml).

    Batch norm is synchronised over devices: its groups are whole global batches, one for each view.
    """

    temperature: float = 0.2  # similarities are divided by it
    hard_negative_weight: float = 2.0  # rho, as for MoCo; it weighs more among 510 negatives than among 65,536
    hard_negative_anchor: Anchor = Anchor.query
    hard_negative_stopgrad: bool = False  # whether no gradient flows through the hard negative's embedding


@dataclass(frozen=True)
class AdiosSettings:
    """ADIOS (Shi et al. 2022), with `masking.strategy=learned`.

    The values are those of its authors' only script for ImageNet-100 at 224 px on SimCLR, the single-mask version
    (YugeTen/adios, bash_files/training/imagenet100/resnet18/simclr_adios_s.sh). The occlusion network is optimised by
    LARS, whatever optimises the encoder, on the encoder's schedule.

    The encoder is trained by its framework's recipe, so that a row differs from its baseline in the masks alone. That
    recipe is not the script's, although the occlusion network's rate is:

    - `simclr+adios`: batch 256 (128 in the script), rate 0.3 (0.18956, not scaled by the batch), jitter of brightness,
      contrast, saturation and hue .8, .8, .8, .2 (.7, .6, .8, .15), warm-up and cosine by steps (by epochs).
      `simclr+adios-script` has the script's values. Both are ResNet-50, 200 epochs (ResNet-18, 400), start their
      warm-up at 1e-4 of the rate (at 0.003), and divide red by .229 (.228).
    - `mocov2+adios` follows no script, as there is none: MoCo v2's batch 128, SGD at 0.015 and views, no warm-up.
    """

    masks: int = 4  # masks that the occlusion network draws for an image; together they cover it
    single: bool = True  # one random mask for each image and step (ADIOS-s); otherwise all of them (ADIOS)
    base_filters: int = 8  # filters of the occlusion network's first stage, a U-Net
    norm: Norm = Norm.group
    lr: float = 0.49876  # learning rate of the occlusion network
    momentum: float = 0.9  # momentum of its optimiser
    weight_decay: float = 1e-4  # L2 penalty in its optimiser
    alpha_sparsity: float = 0.75  # penalty on masks that hide nothing or everything
    alpha_entropy: float = 0.0  # weight of the entropy over the masks' sizes


@dataclass(frozen=True)
class OptimizationSettings:
    """How the encoder is optimised."""

    epochs: int = size(200)  # passes over the training images
    batch: int = size(128)  # images a step, over all devices
    lr: float = 0.015  # highest learning rate; not scaled by the batch
    momentum: float = 0.9  # momentum of the optimiser
    weight_decay: float = 1e-4  # L2 penalty in the optimiser
    precision: Precision = Precision.fp32  # with fp32, convolutions on a GPU use TF32, torch's default
    optimizer: Optimizer = added(Optimizer.sgd, absent=Optimizer.sgd)
    lars_eta: float = added(0.02, absent=0.02)  # trust coefficient (solo-learn)
    schedule: Schedule = added(Schedule.cosine, absent=Schedule.cosine)
    step_share: float = added(0.3, absent=0.3)  # share of the epochs between two steps of `schedule=steps`
    warmup_share: float = added(0.0, absent=0.0)  # share of the epochs in which the learning rate rises linearly
    interval: Interval = added(Interval.epoch, absent=Interval.epoch)


@dataclass(frozen=True)
class ImportedSettings:
    """Weights that were not trained here; no other setting of the run describes their training."""

    weights: str = ""  # SHA-256 of the backbone's tensors
    input_filter: InputFilter = InputFilter.none  # what the weights were trained on
    origin: str = outside_identity("")  # the file that they came from


@dataclass(frozen=True)
class MachineSettings:
    """How a run is carried out here; only `compile`, `channels_last` and `filter_library` change results, by rounding.

    This holds on one kind of device. Each attempt's settings are in its entry of `provenance.json`.
    """

    data_root: str = ""  # root of the data set; empty: $SALMASK_DATA or ~/.config/salmask/data.yaml
    device: str = "auto"  # "auto", "cpu" or "cuda"
    workers: int = 4  # decoding processes per device
    data_cache: str = ""  # folder of decoded images; empty: $SALMASK_CACHE/pixels, or the user's cache folder
    log_every: int = 20  # steps between two log lines
    checkpoint_every: int = 500  # steps between two checkpoints; the end of an epoch is always kept
    monitor_images: int = 256  # images that the monitor looks at after each epoch, at most a quarter of all; 0: none
    on_collapse: OnCollapse = OnCollapse.warn  # exploded weights, collapsed features: warn, or end the run
    channels_last: bool = False  # images and features lie in memory as NHWC; rounds differently
    compile: bool = False  # compiles the step by torch.compile: faster on a GPU, after a minute; rounds differently
    graphs: bool = False  # on one GPU: each step's forward and backward pass is replayed as one CUDA graph
    filter_library: FilterLibrary = FilterLibrary.torch  # for masking on a CPU; cv2 is faster, and rounds differently
    wandb: bool = False  # also writes a pretraining's scalars for Weights & Biases, off-line unless $WANDB_MODE=online
    resident: bool = False  # the training images lie in the device's memory, and views are cropped there


@dataclass(frozen=True)
class RunSettings:
    """Every setting of a run, section by section, not yet checked; `repro.settings.run.Run` adds the checks and the id.

    The fields are not in `Run` itself so that the modules that check them (`limits`, `frameworks`) can import them
    without importing `Run`, which calls these checks.
    """

    method: str = outside_identity("mocov2")  # name of the method; the other settings say what it is
    framework: Framework = Framework.mocov2
    seed: int = 0  # random seed of initial weights, order of images, and views
    data: DataSettings = field(default_factory=DataSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    localizer: LocalizerSettings = field(default_factory=LocalizerSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    fidelity: FidelitySettings = field(default_factory=FidelitySettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    moco: MocoSettings = field(default_factory=MocoSettings)
    simclr: SimclrSettings = added(SimclrSettings(), absent=SimclrSettings())
    adios: AdiosSettings = added(AdiosSettings(), absent=AdiosSettings())
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    imported: ImportedSettings = added(ImportedSettings(), absent=ImportedSettings())
    probe: ProbeSettings = outside_identity(ProbeSettings)
    logistic: LogisticSettings = outside_identity(LogisticSettings)
    knn: KnnSettings = outside_identity(KnnSettings)
    finetune: FinetuneSettings = outside_identity(FinetuneSettings)
    detection: DetectionSettings = outside_identity(DetectionSettings)
    machine: MachineSettings = outside_identity(MachineSettings)

    @property
    def masks(self) -> bool:
        """Whether patches are masked before the network sees a view; not learned masks, which the model makes."""
        return self.masking.strategy not in (Strategy.none, Strategy.learned)

    @property
    def guided(self) -> bool:
        """Whether the foreground decides which patches are masked."""
        return self.masks and self.masking.guidance is Guidance.saliency

    @property
    def input_filter(self) -> InputFilter:
        """What the network sees of an image, in training and ever after."""
        if self.framework is Framework.external:
            return self.imported.input_filter
        return InputFilter.high_pass if self.masking.strategy is Strategy.high_pass else InputFilter.none

    @property
    def saliency_sources(self) -> tuple[SaliencySource, SaliencySource]:
        """Where the foreground of masked views and that of hard negatives comes from."""
        source = SaliencySource.parse(self.localizer.source)
        hard = self.localizer.hard_negative_source
        return source, SaliencySource.parse(hard) if hard else source

    @property
    def needs_localizer(self) -> bool:
        """Whether a frozen network tells where the foreground is."""
        return self.guided and any(source.needs_network for source in self.saliency_sources)

    @property
    def needs_true_masks(self) -> bool:
        """Whether true masks tell where the foreground is, and not only how well another source finds it."""
        return self.guided and any(source.needs_truth for source in self.saliency_sources)
