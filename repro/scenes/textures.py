"""Procedural drawing without objects: noise, colours, anti-aliased outlines, backdrops. NumPy and Pillow only.

Fields are H×W and images 3×H×W, float32 in 0..1 (colour first, as NumPy is several times slower with it last); alpha is
H×W uint8. Every function draws from the generator it is handed and from nothing else.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_SUPERSAMPLE = 4  # sub-pixels along one side of a pixel when an outline is filled


def value_noise(rng: np.random.Generator, shape: tuple[int, int], *, cells: int, octaves: int) -> Floats:
    """Draws multi-octave value noise (random grids, bicubically enlarged; each octave twice as fine, 0.55 as strong).

    Args:
        rng: The source of randomness.
        shape: (H, W) in pixels.
        cells: The grid cells along a side in the coarsest octave, at least 2.
        octaves: The number of octaves, at least 1.

    Returns:
        H×W, its least value 0 and its greatest 1.
    """
    field = rng.random((cells, cells), dtype=np.float32)
    # Each sum is enlarged together with the next octave, so that only the last step is at the full size.
    for octave in range(1, octaves):
        side = cells * 2**octave
        field = _enlarge(field, (side, side)) + 0.55**octave * rng.random((side, side), dtype=np.float32)
    field = _enlarge(field, shape)
    field -= field.min()
    field /= max(field.max(), np.float32(1e-6))  # a flat field stays 0 rather than becoming NaN
    return field


def random_colours(rng: np.random.Generator, number: int) -> Floats:
    """Draws colours of any hue, saturation 0.1..0.85 and lightness 0.2..0.8 (HLS).

    Returns:
        number×3 RGB in 0..1.
    """
    hue, lightness, saturation = rng.random(number), rng.uniform(0.2, 0.8, number), rng.uniform(0.1, 0.85, number)
    rows = [colorsys.hls_to_rgb(*values) for values in zip(hue, lightness, saturation, strict=True)]
    return np.array(rows, dtype=np.float32)


def contrasting_colours(rng: np.random.Generator) -> Floats:
    """Draws two colours whose lightness differs by 0.25..0.5, in random order and with unrelated hues.

    Returns:
        2×3 RGB in 0..1.
    """
    gap = rng.uniform(0.25, 0.5)
    lower = rng.uniform(0.12, 0.88 - gap)
    levels = rng.permutation([lower, lower + gap])
    hues, saturations = rng.random(2), rng.uniform(0.1, 0.85, 2)
    rows = [colorsys.hls_to_rgb(*values) for values in zip(hues, levels, saturations, strict=True)]
    return np.array(rows, dtype=np.float32)


def fill_outline(shape: tuple[int, int], solid: NDArray[np.float64], hole: NDArray[np.float64] | None = None) -> Bytes:
    """Computes the coverage of every pixel by a closed outline, less what a hole cuts out of it.

    Args:
        shape: (H, W) in pixels.
        solid: The outline to fill, N×2 (x, y) in pixels.
        hole: The outline to cut out afterwards, M×2 (x, y) in pixels; None for none.

    Returns:
        H×W alpha, 0..255, from 4×4 samples a pixel.
    """
    height, width = shape
    canvas = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    draw = ImageDraw.Draw(canvas)
    for outline, value in ((solid, 255), (hole, 0)):
        if outline is not None:
            draw.polygon((outline * _SUPERSAMPLE).ravel().tolist(), fill=value)
    return np.asarray(canvas.reduce(_SUPERSAMPLE))


def planes(image: Image.Image) -> Floats:
    """Returns a picture as C×H×W float32 in 0..1, contiguous."""
    levels: Bytes = np.asarray(image)
    return np.ascontiguousarray(np.moveaxis(levels, -1, 0)) * np.float32(1 / 255)


def blend(under: Floats, over: Floats, weight: Floats | float) -> Floats:
    """Mixes two pictures: `under` where the weight is 0, `over` where it is 1.

    Args:
        under: The picture below.
        over: The picture above.
        weight: The share of `over`, 0..1. The three shapes must broadcast.

    Returns:
        The mixture, float32.
    """
    return under + (over - under) * np.asarray(weight, dtype=np.float32)


def backdrop(rng: np.random.Generator, side: int, palette: Floats) -> Floats:
    """Draws a cluttered ground: two layered textures, small debris, grain.

    Args:
        rng: The source of randomness.
        side: The height and width in pixels.
        palette: At least 4×3 RGB in 0..1; two colours make the ground, the third its patches, the rest the debris.

    Returns:
        3×side×side in 0..1.
    """
    first, second, third = palette[:3, :, None, None]
    ground = _FIELDS[rng.integers(len(_FIELDS))](rng, side)
    patches = np.clip((value_noise(rng, (side, side), cells=int(rng.integers(2, 5)), octaves=4) - 0.5) * 4, 0, 1)
    image = blend(blend(first, second, ground), third, patches)
    image = _with_debris(rng, image, palette[3:])
    grain = value_noise(rng, (side, side), cells=max(side // 8, 8), octaves=3)
    image *= 1 + np.float32(rng.uniform(0.15, 0.7)) * (grain - 0.5)
    return np.clip(image, 0, 1, out=image)


# The textures of a ground, each side×side in 0..1: the share of the ground's second colour.


def _clouds(rng: np.random.Generator, side: int) -> Floats:
    return value_noise(rng, (side, side), cells=int(rng.integers(2, 7)), octaves=5)


def _ramp(rng: np.random.Generator, side: int) -> Floats:
    roughness = rng.uniform(0.1, 0.5)
    distance = _along(rng.uniform(0, 2 * np.pi), side) + roughness * value_noise(rng, (side, side), cells=4, octaves=4)
    return np.clip(distance + 0.5 - roughness / 2, 0, 1)


def _waves(rng: np.random.Generator, side: int) -> Floats:
    bend = rng.uniform(2, 10) * value_noise(rng, (side, side), cells=3, octaves=3)
    phase = _along(rng.uniform(0, np.pi), side) * (2 * np.pi * rng.uniform(3, 12)) + bend
    return np.clip(0.5 + rng.uniform(0.5, 1.5) * np.sin(phase), 0, 1)


def _blobs(rng: np.random.Generator, side: int) -> Floats:
    field = value_noise(rng, (side, side), cells=int(rng.integers(4, 11)), octaves=2)
    return np.clip((field - rng.uniform(0.4, 0.6)) * side / 12, 0, 1)


def _tiles(rng: np.random.Generator, side: int) -> Floats:
    number = int(rng.integers(4, 10))
    angle, bend = rng.uniform(0, np.pi / 2), rng.uniform(0, 1.5)
    warp = bend * value_noise(rng, (side, side), cells=4, octaves=3)
    # Rows and columns are counted from the centre and may be negative; % brings them into the table of 16×16 tiles.
    row = np.floor(_along(angle, side) * number + warp).astype(np.intp)
    column = np.floor(_along(angle + np.pi / 2, side) * number - warp).astype(np.intp)
    values = rng.random((16, 16), dtype=np.float32)
    return values[row % 16, column % 16]


_FIELDS: tuple[Callable[[np.random.Generator, int], Floats], ...] = (_clouds, _ramp, _waves, _blobs, _tiles)


def _along(angle: float, side: int) -> Floats:
    """Returns each pixel's distance from the centre along a direction, in sides: side×side, about -0.7..0.7."""
    axis = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    return axis * np.float32(np.cos(angle)) + (axis * np.float32(np.sin(angle)))[:, None]


def _with_debris(rng: np.random.Generator, image: Floats, colours: Floats) -> Floats:
    """Draws 4 to 14 small lumps and twigs of the colours on a 3×side×side image; some stick out at its edge."""
    side, number = image.shape[-1], int(rng.integers(4, 15))
    draw_scale = _SUPERSAMPLE // 2  # debris needs no exact edge
    canvas = Image.new("RGBA", (side * draw_scale, side * draw_scale))
    draw = ImageDraw.Draw(canvas)
    picks = (colours[rng.integers(len(colours), size=number)] * 255).astype(int)
    opacity = rng.integers(130, 256, size=(number, 1))
    outlines = _lumps(rng, number) * side + rng.uniform(0, side, (number, 1, 2))
    for outline, fill in zip(outlines * draw_scale, np.hstack([picks, opacity]).tolist(), strict=True):
        draw.polygon(outline.ravel().tolist(), fill=tuple(fill))
    layer = planes(canvas.reduce(draw_scale))
    return blend(image, layer[:3], layer[3])


def _lumps(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Draws wobbly ellipses about the origin with radii of 0.02..0.1: number×20×2 (x, y)."""
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    uniform = rng.random((6, number, 1))
    radius, flatness = 0.02 + 0.08 * uniform[0] ** 2, 0.15 + 0.85 * uniform[1]
    wobble = 1 + 0.25 * uniform[2] * np.cos(3 * turn + 6 * uniform[3]) + 0.2 * uniform[4] * np.cos(2 * turn)
    x, y = radius * wobble * np.cos(turn), radius * flatness * wobble * np.sin(turn)
    cosine, sine = np.cos(np.pi * uniform[5]), np.sin(np.pi * uniform[5])
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)


def _enlarge(field: Floats, shape: tuple[int, int]) -> Floats:
    return np.array(Image.fromarray(field).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
