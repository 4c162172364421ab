"""A draw applied with PIL, image by image, as MoCo v2's own code does."""

from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tvf

from repro.augmentation.draws import ORDERS, Draw


def apply_reference(image: Image.Image, draw: Draw) -> Image.Image:
    """Returns a crop with a draw applied to it, in MoCo v2's order (released main_moco.py:247-259).

    Args:
        image: RGB, of any size; left as it is.
        draw: Of the view.

    Returns:
        An image of the same size, rounded to 8 bits after each change, as PIL does.
    """
    if draw.jitter:
        changes = (  # in the order of the numbers of `ORDERS`
            (tvf.adjust_brightness, draw.brightness),
            (tvf.adjust_contrast, draw.contrast),
            (tvf.adjust_saturation, draw.saturation),
            (tvf.adjust_hue, draw.hue),
        )
        for change in ORDERS[int(draw.order)]:
            adjust, factor = changes[change]
            image = adjust(image, factor)
    if draw.grey:
        image = tvf.to_grayscale(image, num_output_channels=3)
    if draw.sigma:  # PIL's radius is a standard deviation (released moco/loader.py:53-65)
        image = image.filter(ImageFilter.GaussianBlur(draw.sigma))
    return tvf.hflip(image) if draw.flip else image
