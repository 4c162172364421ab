"""The values that settings choose from."""

from enum import StrEnum


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
    """The view that is masked (the paper's Table 3)."""

    query = "query"
    key = "key"
    both = "both"


class Source(StrEnum):
    """Which of the two is followed where the authors' published equations and their released code differ."""

    paper = "paper"
    released = "released"


class Backend(StrEnum):
    """Who applies the drawn augmentation: batched on the device, or PIL image by image in the workers."""

    device = "device"
    reference = "reference"


class Interpolation(StrEnum):
    """How the pixels of a crop are computed when it is resized."""

    bilinear = "bilinear"
    bicubic = "bicubic"


class Resizer(StrEnum):
    """What resizes a crop: Pillow, or torch, which is faster and rounds one pixel in twenty the other way."""

    pil = "pil"
    torch = "torch"


class Anchor(StrEnum):
    """The views whose embeddings meet the hard negative in SimCLR's loss."""

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
    """How often the learning rate is set anew along its schedule."""

    epoch = "epoch"
    step = "step"


class Norm(StrEnum):
    """Normalisation inside the occlusion network (ADIOS)."""

    group = "group"
    instance = "instance"
    none = "none"


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
