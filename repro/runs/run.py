"""Run: one frozen, typed description of an experiment; its id follows from its content (`repro.runs.identity`).

A `Run` is read from defaults, the settings of a method's row, a YAML file and `key.sub=value` overrides, in this
order, and never changes afterwards. No torch is imported here: tables and launchers read runs too.

Values without a source in a comment are the paper's recipe for MoCo v2 on ImageNet-100 (released `main_moco.py` and
README). What the other frameworks do otherwise stands in `baselines/recipes.py`.
"""

from dataclasses import dataclass, field

import yaml

from repro.errors import UserError
from repro.runs.choices import Framework, Guidance, Strategy
from repro.runs.detection import DetectionSettings
from repro.runs.identity import added, digest, identity, outside_identity, plain
from repro.runs.limits import problems
from repro.runs.protocols import FinetuneSettings, KnnSettings, LogisticSettings, ProbeSettings
from repro.runs.sections import (
    AdiosSettings,
    AugmentationSettings,
    DataSettings,
    EncoderSettings,
    FidelitySettings,
    ImportedSettings,
    LocalizerSettings,
    MachineSettings,
    MaskingSettings,
    MocoSettings,
    OptimizationSettings,
    SimclrSettings,
)

PAPER_SCALE = {Framework.mocov2: (200, 128), Framework.simclr: (200, 256), Framework.supervised: (100, 256)}
"""Epochs and global batch at which a framework's rows are no *tiny* ones."""


@dataclass(frozen=True)
class Run:
    """One experiment: a method on a data set with a seed."""

    method: str = outside_identity("mocov2")  # a name; what it means stands in the other fields
    framework: Framework = Framework.mocov2
    seed: int = 0
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
