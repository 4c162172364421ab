"""An image of any data set and its label, looked at as it is read: those of a person's own class may be anything."""

from PIL import Image

from repro.data.splits import Images
from repro.errors import UserError


def read_image(images: Images, index: int) -> tuple[Image.Image, int]:
    """Returns an image and its label.

    As a data set is opened only its first image is looked at. What is wrong with a later one would be found far from
    here, as batches whose parts do not fit, or not at all: one without a pixel is black.

    Raises:
        UserError: It is no RGB image with pixels, or its label is of no class.
    """
    answer: object = images[index]
    name = f"image {index} of {type(images).__name__}"
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[0], Image.Image):
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        found = ", ".join(type(part).__name__ for part in parts)
        raise UserError(f"{name} is ({found})", mend="a PIL image and its label, as a tuple")
    image, label = answer
    if image.mode != "RGB":
        raise UserError(f"{name} is of mode {image.mode}, not RGB", mend='image.convert("RGB")')
    if not image.width or not image.height:
        raise UserError(f"{name} is {image.width}×{image.height}, without a pixel", mend="leave it out, or replace it")
    if not 0 <= label < len(images.classes):
        mend = f"whole numbers from 0 to {len(images.classes) - 1}, the place of the class in `classes`"
        raise UserError(f"{name} has the label {label}, of {len(images.classes)} classes", mend=mend)
    return image, label
