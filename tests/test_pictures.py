"""Pictures of every kind that people have, and what is refused of them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blendbench.errors import BlendbenchError, ClipError
from blendbench.pictures import fit, read


def saved(path: Path, image: Image.Image, **words: object) -> Path:
    image.save(path, **words)
    return path


def colours(width: int = 6, height: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_comes_as_it_is(tmp_path):
    values = colours()
    found = read(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert found.notes == () and torch.equal((found.pixels * 255).round().byte(), torch.tensor(values).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    ending = ".tiff" if mode in ("CMYK", "YCbCr") else ".png"
    found = read(saved(tmp_path / f"a{ending}", Image.fromarray(colours()).convert(mode)))
    wanted = np.asarray(Image.fromarray(colours()).convert(mode).convert("RGB"))
    assert found.pixels.shape == (3, 4, 6)
    assert np.abs(found.pixels.permute(1, 2, 0).numpy() * 255 - wanted).max() < 1.5


def test_sixteen_bit_is_scaled_and_not_cut(tmp_path):
    values = np.array([[0, 256, 32_768, 65_535]], np.uint16)
    found = read(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert found.pixels[0, 0].tolist() == pytest.approx([0, 256 / 65_535, 32_768 / 65_535, 1.0])


def test_transparency_lies_over_white(tmp_path):
    values = np.zeros((1, 3, 4), np.uint8)
    values[0, :, 3] = [0, 128, 255]
    found = read(saved(tmp_path / "a.png", Image.fromarray(values, "RGBA")))
    assert found.pixels[0, 0].tolist() == pytest.approx([1.0, 1 - 128 / 255, 0.0]) and found.notes == ("over white",)
    opaque = read(saved(tmp_path / "b.png", Image.fromarray(colours()).convert("RGBA")))
    assert opaque.notes == ()


def test_exif_turns_it(tmp_path):
    image = Image.fromarray(colours(8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # on its side
    found = read(saved(tmp_path / "a.png", image, exif=exif))
    assert found.pixels.shape == (3, 8, 4)
    assert torch.allclose(found.pixels, read(saved(tmp_path / "b.png", image)).pixels.rot90(-1, (1, 2)))


def test_of_an_animation_the_first_frame_counts_and_is_told(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    found = read(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert found.notes == ("first of 3 frames",)
    assert found.pixels[:, 0, 0].tolist() == pytest.approx([1, 0, 0], abs=0.02)


def bomb(path: Path) -> Path:
    """A PNG whose header promises a hundred million pixels, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_what_is_no_picture_is_one_line(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    whole = saved(tmp_path / "whole.png", Image.fromarray(colours(200, 200))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in {
        "nothere.png": "no such file", "empty.png": r"empty \(0 bytes\)", "text.jpg": "cannot be read as a picture",
        "page.eps": "cannot be read as a picture", "cut.png": "cannot be read as a picture",
    }.items():  # fmt: skip
        with pytest.raises(ClipError, match=message) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ClipError, match="cannot be read as a picture"):
        read(tmp_path)
    with pytest.raises(ClipError, match="10000 x 10000 pixels, over 50 million"):
        read(bomb(tmp_path / "bomb.png"))


def test_every_cut_of_a_file_is_read_or_refused(tmp_path):
    for ending in ("png", "jpg", "gif", "bmp", "tiff", "webp"):
        whole = saved(tmp_path / f"a.{ending}", Image.fromarray(colours(32, 32))).read_bytes()
        for length in range(1, len(whole), max(1, len(whole) // 20)):
            file = tmp_path / f"cut.{ending}"
            file.write_bytes(whole[:length])
            try:
                assert read(file).pixels.shape == (3, 32, 32)
            except ClipError as error:
                assert "\n" not in str(error)


def test_a_square_is_stretched_cut_or_padded():
    wide = torch.zeros(3, 4, 8)
    wide[:, :, :2] = 1
    assert fit(wide, 16, "stretch")[0, 8].tolist()[:3] == [1.0, 1.0, 1.0]
    assert fit(wide, 4, "crop").max() == 0  # the middle
    padded = fit(wide, 8, "pad")
    assert padded[0, 0].tolist() == [1.0] * 8 and padded[0, 3, 5] == 0 and padded.shape == (3, 8, 8)
    with pytest.raises(BlendbenchError, match=r"image\.fit=x: choose stretch, crop, pad"):
        fit(wide, 8, "x")  # type: ignore[arg-type]
