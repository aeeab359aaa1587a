"""Image files of any kind → pixels of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 500_000_000  # that have to be in memory at once; a JPEG is decoded smaller
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit of 178 million counts the pixels of a JPEG before that
WHITES = (1, 255, 1023, 4095, 16383, 65535)  # the largest value of 8, 10, 12, 14 and 16 bits; of many floats it is 1
BLANK = 16  # levels of 256: a picture of more than 8 bits that shows fewer, but for stray pixels, was not understood


class Unreadable(Exception):
    """Why a file shows no picture, in a few words."""


def decode(file: Path | BinaryIO, formats: tuple[str, ...] = FORMATS, side: int = 0) -> Image.Image:
    """The picture in 8 bits a channel, the right way up, on white where it is transparent. Raises `Unreadable`.

    Args:
        side: a JPEG may be decoded at a fraction of its size, both sides at least so many pixels; 0: never.
    """
    try:
        with Image.open(file, formats=formats) as image:
            if side:
                image.draft(None, (side, side))
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"{image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are read")
            deep = image.mode[0] in "IF" or ";16" in str(image.tile)  # 16 bits of colour are cut to 8 by Pillow
            upright = ImageOps.exif_transpose(image)
            if image.mode[0] in "IF":
                upright = _eight_bits(upright)
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            if deep and np.ptp(np.percentile(np.asarray(upright.convert("L")), (1, 99))) < BLANK:
                raise Unreadable("more than 8 bits, of which it uses too few to be seen: save it with 8 bits")
            return upright
    except Unreadable:
        raise
    except Exception as error:  # damage makes Pillow raise errors of many kinds, also struct.error and SyntaxError
        raise Unreadable(" ".join(str(error).split())[:80] or type(error).__name__) from None


def square(image: Image.Image, size: int, colour: bool, filter: Image.Resampling) -> NDArray[np.uint8]:
    """The middle square of a picture, shrunk or enlarged → (3, size, size), grey (1, size, size)."""
    mode = "RGB" if colour else "L"
    fitted = ImageOps.fit(image if image.mode == mode else image.convert(mode), (size, size), filter)
    pixels = np.asarray(fitted)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if colour else pixels[None])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 10 to 32 bits, or of floats, from 0 for black. No file says which value is white: it is that of the
    smallest usual depth that holds all values, or the largest value itself."""
    values = np.asarray(image)
    largest = values.max()
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise Unreadable("its values are below zero or not finite: save it with 8 bits")
    white = next((white for white in WHITES if largest <= white), largest)
    return Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))
