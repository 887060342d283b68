"""Writes TensorFlow's checkpoints (tensor bundles), and a wheel as musicnn's, of numbers of one's own."""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np

TYPES = {np.dtype("<f4"): 1, np.dtype("<f8"): 2, np.dtype("<i4"): 3, np.dtype("<i8"): 9, np.dtype("<f2"): 19}


def masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A LevelDB block; keys share prefixes, but for each `every`-th."""
    out, restarts, before = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: Mapping[bytes, bytes], per_block: int = 5, kind: int = 0) -> bytes:
    out, handles = bytearray(), []

    def put(content: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(content))
        out.extend(content + bytes([kind]) + struct.pack("<I", masked(content + bytes([kind]))))
        return handle

    rows = sorted(entries.items())
    for start in range(0, len(rows), per_block):
        part = rows[start : start + per_block]
        handles.append((part[-1][0], put(block(part))))
    ends = put(block([])) + put(block(handles, every=1))
    return bytes(out) + ends.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def bundle(tensors: Mapping[str, np.ndarray], *, shards: int = 1, kind: int = 0) -> tuple[bytes, bytes]:
    """Index and data of a checkpoint."""
    data, entries = bytearray(), {b"": b"\x08" + varint(shards) + b"\x1a\x02\x08\x01"}
    for name, value in sorted(tensors.items()):
        content = value.tobytes()
        sizes = b"".join(b"\x12" + varint(len(one)) + one for one in (b"\x08" + varint(n) for n in value.shape))
        entry = b"\x08" + varint(TYPES[value.dtype]) + b"\x12" + varint(len(sizes)) + sizes
        entry += b"\x20" + varint(len(data)) + b"\x28" + varint(len(content)) + b"\x35"
        entries[name.encode()] = entry + struct.pack("<I", masked(content))
        data += content
    return table(entries, kind=kind), bytes(data)


def write(folder: Path, tensors: Mapping[str, np.ndarray]) -> tuple[Path, Path]:
    index, data = folder / "x.index", folder / "x.data-00000-of-00001"
    for file, content in zip((index, data), bundle(tensors), strict=True):
        file.write_bytes(content)
    return index, data


def musicnn_variables(seed: int) -> dict[str, np.ndarray]:
    """Random values under the names and in the shapes of musicnn's variables, with an optimiser's beside them."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"beta1_power": ()}
    for number, size in enumerate([1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200]):
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        shapes |= {f"{name}/{part}": (size,) for part in ("beta", "gamma", "moving_mean", "moving_variance")}
    kernels = [(7, 38), (7, 67), (128, 1), (64, 1), (32, 1), (7, 561), (7, 64), (7, 64)]
    for number, (kernel, size) in enumerate(zip(kernels, [204, 204, 51, 51, 51, 64, 64, 64], strict=True)):
        name = f"conv2d_{number}" if number else "conv2d"
        shapes |= {f"{name}/kernel": (*kernel, 1, size), f"{name}/bias": (size,), f"{name}/bias/Adam": (size,)}
    for name, shape in (("dense", (1506, 200)), ("dense_1", (200, 50))):
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    return {
        name: np.abs(draw.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[:-1])))).astype("<f4")
        for name, shape in shapes.items()
    }


def musicnn_folder(folder: Path) -> Path:
    """A folder as `blendbench models fetch musicnn` leaves, of random weights."""
    from blendbench.models import musicnn

    (folder / "some.whl").write_bytes(
        musicnn_wheel(dict(zip(("MSD", "MTT"), map(musicnn_variables, (0, 1)), strict=True)))
    )
    musicnn.convert(folder / "some.whl", folder)
    return folder


def musicnn_wheel(variables: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """A wheel with a checkpoint of each network, "MSD" and "MTT"."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("musicnn/__init__.py", "raise SystemExit('nothing of the wheel may run')")
        for network, tensors in variables.items():
            index, data = bundle(tensors)
            wheel.writestr(f"musicnn/{network}_musicnn/.index", index)
            wheel.writestr(f"musicnn/{network}_musicnn/.data-00000-of-00001", data)
    return packed.getvalue()
