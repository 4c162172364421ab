"""The values that settings choose from; each is written as it is named."""

from enum import StrEnum, auto


class Strategy(StrEnum):
    """What stands where a patch was masked; `learned` masks are drawn by a network that is trained too (ADIOS)."""

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
    """What a backbone sees of normalised images: themselves, or what the high-pass filter leaves of them."""

    none = auto()
    high_pass = auto()


class NoiseArea(StrEnum):
    """What the high-pass strategy draws noise for: the whole view, or its masked pixels alone.

    Both show independent noise of one strength in masked pixels, from other places of the stream. A GPU draws for the
    whole view, whichever it is: that is faster there than to find out how many pixels are masked.
    """

    view = auto()
    masked = auto()


class FilterLibrary(StrEnum):
    """Who computes the filters of the masking strategies on a CPU: torch, or OpenCV, which sums in another order.

    The two depart by rounding alone, `test_filters.py` says how far. A GPU filters with torch, whichever it is.
    """

    torch = auto()
    cv2 = auto()


class Guidance(StrEnum):
    """Whether patches are drawn by saliency stratum or uniformly."""

    saliency = auto()
    random = auto()


class MapOf(StrEnum):
    """What the localizer sees: each view, as the paper has it, or the whole image once, of which views are cropped."""

    view = auto()
    image = auto()


class Branch(StrEnum):
    """The view that is masked (the paper's Table 3)."""

    query = auto()
    key = auto()
    both = auto()


class Source(StrEnum):
    """Which of the two is followed where the authors' published equations and their released code differ."""

    paper = auto()
    released = auto()


class Backend(StrEnum):
    """Who applies the drawn augmentation: batched on the device, or PIL image by image in the workers.

    The crop is PIL's for both. PIL cuts to 8 bits after each step, the device never does. How far a pixel of the device
    departs from PIL's is measured in `test_views.py` on synthetic pictures of smooth areas and edges and on white
    noise; no photographs were measured. In levels of 255, as root mean square and at most, by the step: flip 0; grey
    .29, .53; brightness .56, 1.0; contrast .55, 1.2; saturation .57, 1.2; hue 1.8, 17, as PIL's HSV has 8 bits a
    channel; blur see `Blur`. With all steps, on the pictures without noise: 1.8 as root mean square.
    """

    device = auto()
    reference = auto()


class Blur(StrEnum):
    """What the device blurs a view by; PIL approximates a Gaussian by three boxes.

    `gaussian`: the Gaussian's values at 17 pixels, reflected at the border, as torchvision's. PIL's boxes have the
    variance that is asked for, which these values lack below a sigma of about .7, and PIL repeats the border. On the
    pictures that `Backend` names, the departure from PIL is .6 levels of 255 as root mean square, and 17 at most; on
    white noise, whose pixels tell kernels apart, up to 60. `box`: PIL's three boxes; it departs by PIL's rounding
    alone, .6 and at most 3, also on white noise.
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
    """The views whose embeddings meet the hard negative in SimCLR's loss."""

    query = auto()
    both = auto()


class Optimizer(StrEnum):
    """SGD with momentum; `lars` scales each layer's step by the ratio of its norm and its gradient's."""

    sgd = auto()
    lars = auto()


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up: along a cosine to 0, or by a tenth at each step."""

    cosine = auto()
    steps = auto()


class Interval(StrEnum):
    """How often the learning rate is set anew along its schedule."""

    epoch = auto()
    step = auto()


class Norm(StrEnum):
    """Normalisation inside the occlusion network (ADIOS)."""

    group = auto()
    instance = auto()
    none = auto()


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass.

    On a GPU of fp32's products those of convolutions are of TF32, with 11 bits of a factor, as torch has it by default;
    each attempt's entry of `provenance.json` tells (`repro.training.precision.arithmetic`).
    """

    fp32 = auto()
    bf16 = auto()
    fp16 = auto()


class OnCollapse(StrEnum):
    """What becomes of a training whose weights explode or whose features collapse."""

    warn = auto()
    stop = auto()
