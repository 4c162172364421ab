"""The values that settings choose from; each is written by its name."""

from enum import StrEnum, auto


class Strategy(StrEnum):
    """What replaces a masked patch; `learned` masks are drawn by a network that is trained along (ADIOS)."""

    none = auto()
    high_pass = auto()
    strong_blur = auto()
    mean_fill = auto()
    learned = auto()


FILTER_TAPS = {Strategy.high_pass: 11, Strategy.strong_blur: 31}
"""Length in pixels of the Gaussian that a strategy filters with (released moco/loader.py:15, 17)."""


LEAST_CACHED, LONGEST_CACHED = 32, 2**16 - 1
"""The shortest and the longest side at which decoded images are cached, in pixels; no JPEG has a longer one."""


class InputFilter(StrEnum):
    """What a backbone sees: the normalised images as they are, or high-pass filtered."""

    none = auto()
    high_pass = auto()


class NoiseArea(StrEnum):
    """What the high-pass strategy draws noise for: the whole view, or its masked pixels alone.

    Either way, masked pixels show independent noise of the same strength, from different positions of the random
    stream. A GPU always draws noise for the whole view: there, that is faster than finding out how many pixels are
    masked.
    """

    view = auto()
    masked = auto()


class FilterLibrary(StrEnum):
    """What computes the masking strategies' filters on a CPU: torch, or OpenCV, which sums in another order.

    Results differ by rounding only (`test_filters.py` says by how much). A GPU always filters with torch.
    """

    torch = auto()
    cv2 = auto()


class Guidance(StrEnum):
    """Whether patches are drawn by saliency stratum or uniformly."""

    saliency = auto()
    random = auto()


class MapOf(StrEnum):
    """What the localizer sees: each view, as in the paper, or the whole image once, whose map is cropped like views."""

    view = auto()
    image = auto()


class Branch(StrEnum):
    """The view that is masked (the paper's Table 3)."""

    query = auto()
    key = auto()
    both = auto()


class Source(StrEnum):
    """Which to follow where the authors' published equations and their released code differ."""

    paper = auto()
    released = auto()


class Backend(StrEnum):
    """What applies the drawn augmentation: the device, to a whole batch, or PIL in the workers, image by image.

    Both crop with PIL. PIL reduces to 8 bits after each step, the device never does. `test_views.py` measures how far
    the device's pixels differ from PIL's, on synthetic pictures of smooth areas and edges and on white noise, but not
    on photographs. Differences of each step in levels of 255, as root mean square and at most: flip 0; grey .29, .53;
    brightness .56, 1.0; contrast .55, 1.2; saturation .57, 1.2; hue 1.8, 17, as PIL's HSV has 8 bits a channel; for
    blur, see `Blur`. With all steps, on the pictures without noise: 1.8 as root mean square.
    """

    device = auto()
    reference = auto()


class Blur(StrEnum):
    """How the device blurs a view; PIL approximates a Gaussian by three box filters.

    `gaussian`: a kernel of the Gaussian's values at 17 pixels, reflected at the border, as torchvision's. PIL's boxes
    have exactly the variance that is asked for, which this kernel lacks below a sigma of about .7, and PIL repeats the
    border pixel. On the pictures that `Backend` names, the difference from PIL is .6 levels of 255 as root mean square,
    and 17 at most; on white noise, which shows differences between kernels best, up to 60. `box`: PIL's three boxes; it
    differs by PIL's rounding only, .6 and at most 3, also on white noise.
    """

    gaussian = auto()
    box = auto()


class Interpolation(StrEnum):
    """How the pixels of a crop are computed when it is resized."""

    bilinear = auto()
    bicubic = auto()


class Resizer(StrEnum):
    """What resizes a crop: Pillow, or torch, which is faster and rounds one pixel in twenty the other way."""

    pil = auto()
    torch = auto()


class Anchor(StrEnum):
    """The views whose embeddings are compared with the hard negative in SimCLR's loss."""

    query = auto()
    both = auto()


class Optimizer(StrEnum):
    """SGD with momentum, or `lars`, which scales each layer's step by its weights' norm over its gradient's."""

    sgd = auto()
    lars = auto()


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up: along a cosine to 0, or by a tenth at each step."""

    cosine = auto()
    steps = auto()


class Interval(StrEnum):
    """How often the learning rate is updated along its schedule."""

    epoch = auto()
    step = auto()


class Norm(StrEnum):
    """Normalisation inside the occlusion network (ADIOS)."""

    group = auto()
    instance = auto()
    none = auto()


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass.

    With `fp32` on a GPU, convolutions multiply in TF32 (11 bits of each factor), which is torch's default. Each
    attempt's entry of `provenance.json` records this (`repro.training.steps.precision.arithmetic`).
    """

    fp32 = auto()
    bf16 = auto()
    fp16 = auto()


class OnCollapse(StrEnum):
    """What happens to a training whose weights explode or whose features collapse."""

    warn = auto()
    stop = auto()
