"""Noise clips as a run hears them: kept on disk by content, read ahead, and never worse for a bad store.

And recordings in HDF5 files of any rate.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from support.worlds import noise_sound

from blendbench.checks import Check
from blendbench.composing import compose
from blendbench.datasets import NoiseClip, inventory, reading
from blendbench.errors import ClipError
from blendbench.sound import audio, files
from blendbench.sound.lattice import extend_to_frames
from blendbench.sound.mel import mel_amplitudes
from blendbench.tasks.blend.noises import Noises

HEARD = {"seconds": 2.0, "lufs": -18.0, "short_clip": "loop"}


@pytest.fixture
def some(tmp_path: Path) -> list[NoiseClip]:
    found = []
    for number in range(6):
        path = tmp_path / "data" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise_sound(number), 44_100)
        found.append(NoiseClip(str(number), path, "noise", str(number)))
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were decoded."""
    seen: list[Path] = []
    read = files.read

    def counted(path, *arguments, **settings):
        seen.append(path)
        return read(path, *arguments, **settings)

    monkeypatch.setattr(files, "read", counted)
    return seen


def test_second_pass_decodes_nothing_and_hears_the_same_to_the_bit(some, tmp_path, decoded):
    first = Noises(HEARD, tmp_path / "store")
    heard = [(first.read(clip), first.mel(clip)) for clip in some]
    first.close()
    assert len(decoded) == 6
    second = Noises(HEARD, tmp_path / "store")
    for clip, (waveform, mel) in zip(some, heard, strict=True):
        assert torch.equal(second.read(clip), waveform)
        assert torch.equal(second.mel(clip), mel)
    assert len(decoded) == 6
    assert torch.equal(Noises(HEARD).read(some[3]), heard[3][0])


def test_mel_is_that_of_the_levelled_and_extended_waveform(some, tmp_path):
    noises = Noises(HEARD, tmp_path / "store")
    wave = noises.read(some[0])
    assert wave.shape == (88_200,)
    assert audio.integrated_loudness(wave, 44_100) == pytest.approx(-18, abs=0.01)
    assert torch.equal(noises.mel(some[0]), mel_amplitudes(extend_to_frames(wave)))


def test_file_with_other_content_is_read_anew_and_a_copy_is_not(some, tmp_path, decoded):
    Noises(HEARD, tmp_path / "store").read(some[0])
    copy = tmp_path / "data" / "copy.wav"
    copy.write_bytes(some[0].path.read_bytes())
    Noises(HEARD, tmp_path / "store").read(replace(some[0], id="copy", path=copy))
    assert len(decoded) == 1
    soundfile.write(some[0].path, noise_sound(99), 44_100)
    changed = Noises(HEARD, tmp_path / "store").read(some[0])
    assert len(decoded) == 2
    assert torch.equal(changed, Noises(HEARD).read(some[0]))


@pytest.mark.parametrize("key", ["seconds", "lufs"])
def test_other_settings_are_kept_apart(some, tmp_path, decoded, key):
    Noises(HEARD, tmp_path / "store").read(some[0])
    other = HEARD | {key: {"seconds": 1.5, "lufs": -24.0}[key]}
    assert torch.equal(Noises(other, tmp_path / "store").read(some[0]), Noises(other).read(some[0]))
    assert len(decoded) == 3


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_damaged_store_is_made_again(some, tmp_path, decoded, harm):
    noises = Noises(HEARD, tmp_path / "store")
    whole = noises.read(some[0])
    noises.close()
    (file,) = (tmp_path / "store").rglob("noise.f32")
    if harm == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[1000] ^= 255
        file.write_bytes(data if harm == "flipped" else data[:5000])
    for _ in range(2):
        assert torch.equal(Noises(HEARD, tmp_path / "store").read(some[0]), whole)
    assert len(decoded) == 2


def test_store_that_cannot_be_written_is_said_once_and_does_no_harm(some, tmp_path, capsys):
    (tmp_path / "store").write_text("a file")
    noises = Noises(HEARD, tmp_path / "store")
    assert all(torch.isfinite(noises.read(clip)).all() for clip in some)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "not kept" in lines[0]
    assert str(tmp_path / "store") in lines[0]


def test_reading_ahead_keeps_the_order_and_puts_reasons_in_place(some, tmp_path):
    bad = NoiseClip("bad", tmp_path / "data" / "bad.wav", "noise", "bad")
    bad.path.write_text("no sound")
    order = [some[2], bad, *some, bad, some[5]] * 3
    with closing(Noises(HEARD, tmp_path / "store")) as noises:
        found = list(reading.ahead(noises.attempt, order, workers=3))
        assert len(found) == len(order)
        for clip, heard in zip(order, found, strict=True):
            if clip is bad:
                assert isinstance(heard, ClipError)
                assert "bad.wav" in str(heard)
            else:
                assert torch.equal(heard, noises.read(clip))


def test_reading_ahead_stops_where_its_taker_stops(some, tmp_path, decoded):
    clips = [replace(some[0], id=str(n)) for n in range(1000)]
    ahead = reading.ahead(Noises(HEARD).attempt, clips, workers=2)
    next(ahead)
    ahead.close()
    assert len(decoded) < 20


def test_link_that_leads_out_is_refused_though_its_content_is_kept(some, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "link.wav").symlink_to(some[0].path)
    clip = replace(some[0], path=folder / "link.wav")
    noises = Noises(HEARD, tmp_path / "store")
    noises.read(clip)
    with pytest.raises(ClipError, match=r"link\.wav.*leads out"):
        noises.read(replace(clip, root=folder))


# HDF5


def recording(path: Path, rate: int, **also: int) -> NoiseClip:
    """A segment of a recording of one second in an HDF5 file."""
    sound = np.interp(np.arange(rate) / rate, np.arange(44_100) / 44_100, noise_sound(3)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["P"] = sound
    return NoiseClip("P_1", path, "noise", "P", span=(0.25, 0.75), member="P", **also)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_recording_is_heard_at_the_rate_that_its_clip_says(rate: int, tmp_path: Path):
    clip = recording(tmp_path / "a.hdf5", rate, member_rate=rate)
    with h5py.File(clip.path) as file:
        soundfile.write(tmp_path / "a.wav", file["P"][:], rate, subtype="FLOAT")
    same = replace(clip, path=tmp_path / "a.wav", member="")
    assert torch.equal(reading.read_clip(clip, 5.0), reading.read_clip(same, 5.0))
    assert reading.read_clip(clip, 5.0).shape == (22_050,)
    assert reading.content_of(clip, 5.0) == reading.content_of(same, 5.0)


def test_recording_whose_clip_says_no_rate_is_of_epic_sounds(tmp_path: Path):
    clip = recording(tmp_path / "a.hdf5", 24_000)
    assert clip.member_rate == 24_000
    assert torch.equal(reading.read_clip(clip, 5.0), reading.read_clip(replace(clip, member_rate=24_000), 5.0))
    assert reading.content_of(clip, 5.0) != reading.content_of(replace(clip, member_rate=24_001), 5.0)


def of_two_rates(folder: str, said: int | None = None) -> list[NoiseClip]:
    """Segments up to the end of recordings of one second in HDF5 files of two rates, which are said, rightly or not."""
    clips = [recording(Path(folder) / f"{rate}.hdf5", rate, member_rate=said or rate) for rate in (16_000, 48_000)]
    return [replace(clip, id=clip.path.stem, span=(0.25, 1.0)) for clip in clips]


def test_inventory_counts_a_recordings_seconds_by_its_clips_rate(tmp_path: Path):
    def lines(**said: int) -> list[Check]:
        entry = {"_target_": "test_clips.of_two_rates", "folder": str(tmp_path), **said}
        return list(
            inventory.checks(
                lambda words: compose(words) | {"dataset": {"folder": entry}, "allow_targets": ["test_clips"]},
                ["folder"],
            )
        )

    (whole,) = lines()
    assert whole.sound
    of_set, of_class = lines(said=24_000)
    assert not of_set.sound
    assert "1 of 2 there; recording P ends at 0.7 s: 16000" in of_class.found
