"""Image files of every kind: the picture as a person sees it, or one line that says why not."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewlabel.data import images
from fewlabel.data.images import Unreadable
from fewlabel.data.own_images import image


def photograph(size: tuple[int, int]) -> Image.Image:
    """Red left of the middle, blue right of it; the upper half brighter."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    pixels[: height // 2] += 40
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(640, 480), (1000, 90), (17, 33), (8, 8)])
@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_photograph_of_any_shape_gives_its_middle_square(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    photograph(size).save(path, kind)
    pixels = image(path, 16, colour=True)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    red, blue = pixels[0].astype(int), pixels[2].astype(int)
    assert (red[:, :5] > blue[:, :5] + 80).all()
    assert (blue[:, -5:] > red[:, -5:] + 80).all()
    assert pixels[:, 2].mean() > pixels[:, -3].mean() + 20
    assert image(path, 16, colour=False).shape == (1, 16, 16)


def test_modes(tmp_path: Path) -> None:
    for mode in ("L", "LA", "P", "RGBA", "1"):
        photograph((64, 48)).convert(mode).save(tmp_path / f"{mode}.png")
    photograph((64, 48)).convert("CMYK").save(tmp_path / "CMYK.jpg", quality=95)
    for path in sorted(tmp_path.iterdir()):
        assert image(path, 8, colour=True).shape == (3, 8, 8)
        assert image(path, 8, colour=False).shape == (1, 8, 8)
    red, _, blue = image(tmp_path / "CMYK.jpg", 8, colour=True).astype(int)
    assert (red[:, :2] > blue[:, :2] + 80).all()


RAMP = np.linspace(0, 1, 16)[:, None].repeat(16, 1)  # from black at the top to white at the bottom


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(1023, "u2"), (4095, "u2"), (65535, "u2"), (4095, "i4"), (123_456, "i4"), (1, "f4"), (255, "f4"), (1e6, "f4")],
)
def test_more_than_8_bits_are_scaled_by_the_range_that_is_used(tmp_path: Path, largest: float, dtype: str) -> None:
    Image.fromarray((RAMP * largest).astype(dtype)).save(tmp_path / "x.tiff")
    assert np.abs(image(tmp_path / "x.tiff", 16, False)[0].astype(int) - RAMP * 255).max() <= 1


def test_a_picture_that_would_be_blank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    hot = np.full((16, 16), 100, "i4")
    hot[0, 0] = 10**9
    for values in (
        hot + np.arange(16, dtype="i4"),
        RAMP.astype("f4") - 1,
        np.where(RAMP > 0.5, np.nan, RAMP).astype("f4"),
    ):
        Image.fromarray(values).save(path)
        with pytest.raises(Unreadable, match="save it with 8 bits"):
            image(path, 8, False)
    path, colour = tmp_path / "x.png", RAMP[..., None].repeat(3, 2)
    write_png(path, (4095 * colour).astype(">u2"))  # 16 bits of colour, of which Pillow keeps the upper 8
    with pytest.raises(Unreadable, match="save it with 8 bits"):
        image(path, 8, True)
    write_png(path, (65535 * colour).astype(">u2"))
    assert np.abs(image(path, 16, True)[0].astype(int) - RAMP * 255).max() <= 1


def write_png(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_the_right_way_up_and_white_where_transparent(tmp_path: Path) -> None:
    upright = photograph((64, 64))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera says: turn me a quarter clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "upright.jpg", quality=95)
    one, other = (image(tmp_path / f"{name}.jpg", 16, True).astype(int) for name in ("turned", "upright"))
    assert abs(one - other).mean() < 4
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (image(tmp_path / "clear.png", 8, True) == 255).all()


def test_size_is_limited_by_what_must_be_in_memory(tmp_path: Path, monkeypatch) -> None:
    Image.new("L", (20_000, 9_000)).save(tmp_path / "x.jpg")  # above Pillow's own limit
    assert image(tmp_path / "x.jpg", 16, True).shape == (3, 16, 16)
    monkeypatch.setattr(images, "MAX_PIXELS", 20_000)
    photograph((1000, 1000)).save(tmp_path / "y.jpg")
    assert image(tmp_path / "y.jpg", 16, True).shape == (3, 16, 16)
    photograph((1000, 1000)).save(tmp_path / "y.png")
    with pytest.raises(Unreadable, match=r"1000×1000 pixels; at most 20,000 are read"):
        image(tmp_path / "y.png", 16, True)


def test_damage_of_any_kind_is_unreadable(tmp_path: Path, monkeypatch) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    path = tmp_path / "x.jpg"
    photograph((20, 20)).save(path, exif=exif)
    path.write_bytes(path.read_bytes().replace(b"\x01\x0f\0\2", b"\x01\x01\0\2"))  # a height that is text: struct.error
    with pytest.raises(Unreadable):
        image(path, 8, colour=True)
    path.write_bytes(b"\0\0\0 ftypavif")
    with pytest.raises(Unreadable):
        image(path, 8, colour=True)
