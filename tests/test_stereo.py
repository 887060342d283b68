"""Sounds of several channels, from files of music to files of music."""

import hashlib
import math
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.worlds import call, music_sound, rows_of

from blendbench.datasets import MusicClip
from blendbench.datasets.reading import read_music
from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators.pocket import PocketTagger
from blendbench.methods import Context
from blendbench.seeds import stable_seed
from blendbench.sound import audio, checks, files
from blendbench.store.signature import file_hash
from blendbench.tasks import Column, Given, Lent, Music, Study

RATE = audio.SAMPLE_RATE


def channels_of(count: int, seconds: float = 1.0) -> np.ndarray:
    """Different music in each channel, [channels, samples]."""
    return np.stack([music_sound(number, seconds) for number in range(count)])


def written(path: Path, channels: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, channels.T, rate, subtype="FLOAT")
    return path


# Reading


@pytest.mark.parametrize("count", [2, 6])
def test_channels_are_read_as_they_are(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(count))
    waveform = files.read(path, channels=count)
    assert waveform.shape == (count, RATE)
    assert waveform.dtype == torch.float32
    np.testing.assert_array_equal(waveform.numpy(), soundfile.read(path, dtype="float32")[0].T)
    span, rate = files.read_span(path, 0.25, 0.5, channels=count)
    assert (span.shape, rate) == ((count, RATE // 4), RATE)
    assert torch.equal(span, waveform[:, RATE // 4 : RATE // 2])


@pytest.mark.parametrize("rate", [8_000, 44_056, 48_000])
@pytest.mark.parametrize("part", [{}, {"start": 0.33337, "max_seconds": 0.5}], ids=["whole", "part"])
def test_each_channel_is_resampled_as_if_alone(rate: int, part: dict, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(2), rate)
    waveform = files.read(path, **part, channels=2)
    for number, channel in enumerate(waveform):
        assert torch.equal(channel, files.read(path, **part, channel=number))


def test_long_file_is_read_in_blocks_as_its_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "a.wav", channels_of(2, 4.0), 48_000)
    whole = [files.read(path, channels=2), files.read(path), files.read(path, start=1.1, max_seconds=2.3, channels=2)]
    monkeypatch.setattr(files, "BLOCK_VALUES", 10_000)
    again = [files.read(path, channels=2), files.read(path), files.read(path, start=1.1, max_seconds=2.3, channels=2)]
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_mono_file_is_repeated(rate: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(1), rate)
    waveform = files.read(path, channels=3)
    assert waveform.shape[0] == 3
    assert all(torch.equal(channel, files.read(path)) for channel in waveform)


def test_one_channel_taken_is_repeated(tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(3))
    right = files.read(path, channel=1)
    assert torch.equal(files.read(path, channel=1, channels=2), right.expand(2, -1))
    with pytest.raises(ClipError, match="has 3 channels"):
        files.read(path, channel=3, channels=2)


@pytest.mark.parametrize(("found", "wanted"), [(6, 2), (2, 3), (3, 2)])
def test_file_of_another_number_of_channels_is_refused(found: int, wanted: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(found))
    for read in (lambda: files.read(path, channels=wanted), lambda: files.read_span(path, 0, 1, channels=wanted)):
        with pytest.raises(ClipError, match=rf"a\.wav: has {found} channels, not 1 or {wanted}; mix it down") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1])
def test_no_channels_are_a_value_error(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(1))
    for read in (lambda: files.read(path, channels=count), lambda: files.read_span(path, 0, 1, channels=count)):
        with pytest.raises(ValueError, match=f"channels must be 1 or more, not {count}"):
            read()


def test_opposite_phases_are_heard_in_two_channels_and_not_in_one(tmp_path: Path):
    left = channels_of(1)
    path = written(tmp_path / "a.wav", np.concatenate([left, -left]))
    waveform = files.read(path, channels=2)
    assert torch.equal(waveform[0], -waveform[1])
    with pytest.raises(ClipError, match="its channels cancel out"):
        files.read(path)


def test_file_is_silent_if_all_its_channels_are(tmp_path: Path):
    sound = channels_of(2)
    files.read(written(tmp_path / "half.wav", sound * [[0], [1]]), channels=2)
    with pytest.raises(ClipError, match=r"none\.wav: is digital silence"):
        files.read(written(tmp_path / "none.wav", 0 * sound), channels=2)
    with pytest.raises(ClipError, match=r"constant\.wav: holds one constant value \(0\.1\)"):
        files.read(written(tmp_path / "constant.wav", 0 * sound + [[0.1], [0.2]]), channels=2)


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_samples_that_are_not_finite_are_counted_over_all_blocks(rate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sound = channels_of(2)
    sound[1, [10, 20_000]] = math.nan
    path = written(tmp_path / "a.wav", sound, rate)
    monkeypatch.setattr(files, "BLOCK_VALUES", 10_000)
    for read in (lambda: files.read(path, channels=2), lambda: files.read_span(path, 0, 2, channels=2)):
        with pytest.raises(ClipError, match=f"2 of {2 * RATE} samples are NaN"):
            read()
    with pytest.raises(ClipError, match=f"2 of {RATE} samples are NaN"):
        files.read(path)


def test_cut_off_file_is_refused_with_several_channels(tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(2))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ClipError, match="truncated"):
        files.read(path, channels=2)


def test_reading_takes_little_beside_its_result(tmp_path: Path):
    path = written(tmp_path / "a.wav", np.tile(channels_of(2, 4.0), 15), 48_000)
    tracemalloc.start()
    try:
        waveform = files.read(path, channels=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy's memory: the blocks that the result is joined of, and a few more of 4 MB each.
    assert peak < waveform.numel() * 4 + 32e6


@pytest.mark.parametrize("count", [1, 2])
def test_music_is_read_in_as_many_channels_as_wanted_and_looped(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(count, 2.0), 48_000)
    clip = MusicClip("a", path, "", "", "a", start=0.5)
    long, short, mono = (read_music(clip, RATE, *asked) for asked in ((4.0, 2), (0.7, 2), (0.7,)))
    assert (long.shape, short.shape, mono.shape) == ((2, 4 * RATE), (2, round(0.7 * RATE)), (round(0.7 * RATE),))
    once = files.read(path, start=0.5, channels=2)
    assert torch.equal(long, audio.extend_circular(once, 4 * RATE))
    assert torch.equal(short, once[:, : short.shape[1]])
    torch.testing.assert_close(mono, short.mean(0), atol=1e-6, rtol=0)
    with pytest.raises(ClipError, match="channel"):
        read_music(MusicClip("a", written(tmp_path / "b.wav", channels_of(3)), "", "", "a"), RATE, 1.0, 2)


# Checking


def test_channels_from_elsewhere_are_checked_by_the_same_rules():
    good = torch.from_numpy(channels_of(2)).float()
    checks.check_waveform(good, "good")
    checks.check_waveform(good * torch.tensor([[0.0], [1.0]]), "one of them")
    for waveform, reason in [
        (0 * good, "digital silence"),
        (good * 1e-4, "below the -70 LUFS gate"),
        (0 * good + torch.tensor([[0.1], [-0.2]]), "one constant value"),
        (good[:, :0], "0 samples"),
        (good[:0], r"shape \[0, 44100\]"),
        (good[:, :15_000], "shorter than"),
        (torch.full_like(good, math.inf), "88200 of 88200 samples"),
    ]:
        with pytest.raises(ClipError, match=f"^elsewhere: .*{reason}"):
            checks.check_waveform(waveform, "elsewhere")


# Writing


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3_000), st.sampled_from([("a.wav", None, 0.0), ("a.flac", None, 2**-22)]))
def test_written_channels_read_back(tmp_path_factory, count: int, samples: int, form: tuple[str, str | None, float]):
    name, subtype, tolerance = form
    path = tmp_path_factory.mktemp("written") / name
    waveform = torch.from_numpy(np.random.default_rng(samples).uniform(-1, 1, (count, samples))).float()
    digest = files.write(path, waveform, RATE, subtype)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    values, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_allclose(values.T, waveform.numpy(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_same_channels_give_the_same_bytes_at_any_time(name: str, tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2)).float()
    digest = files.write(tmp_path / name, waveform, RATE)
    content = (tmp_path / name).read_bytes()
    if name == "a.wav":
        assert struct.unpack_from("<I", content, content.index(b"PEAK") + 12) == (0,)
    assert files.write(tmp_path / name, waveform.T.contiguous().T, RATE) == digest
    assert files.write(tmp_path / name, waveform.flip(0), RATE) != digest
    assert files.write(tmp_path / name, waveform[:1], RATE) == files.write(tmp_path / name, waveform[0], RATE)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_ogg_of_two_channels_keeps_them_apart(tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2, 4.0)).float()
    files.write(tmp_path / "a.ogg", waveform, RATE)
    again = files.read(tmp_path / "a.ogg", channels=2)
    for own, other in ((0, 1), (1, 0)):
        assert np.corrcoef(again[own].numpy(), waveform[own].numpy())[0, 1] > 0.99
        assert abs(np.corrcoef(again[own].numpy(), waveform[other].numpy())[0, 1]) < 0.5


def test_peak_in_any_channel_is_not_clipped(tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2)).float()
    waveform[1, 7] = 1.5
    with pytest.raises(ValueError, match=r"peak 1\.5 would be clipped by PCM_16"):
        files.write(tmp_path / "a.wav", waveform, RATE, "PCM_16")
    assert not list(tmp_path.iterdir())
    files.write(tmp_path / "a.wav", waveform, RATE)
    assert soundfile.read(tmp_path / "a.wav", dtype="float32")[0][7, 1] == 1.5


@pytest.mark.parametrize(
    ("waveform", "error", "reason"),
    [
        (torch.zeros(2, 0), ClipError, "0 samples"),
        (torch.full((2, 5), math.nan), ClipError, "10 of 10 samples"),
        (torch.zeros(9, 5), BlendbenchError, "cannot be encoded as FLAC PCM_24 at 44100 Hz in 9 channels"),
        (torch.zeros(0, 5), ValueError, r"shape \[0, 5\]"),
        (torch.zeros(1, 2, 5), ValueError, r"shape \[1, 2, 5\]"),
    ],
)
def test_channels_that_cannot_be_written_are_refused_first(waveform, error, reason: str, tmp_path: Path):
    with pytest.raises(error, match=rf"a\.flac: .*{reason}") as caught:
        files.write(tmp_path / "a.flac", waveform, RATE)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# From files to the report page


@dataclass(frozen=True)
class Song:
    """An item: a stereo recording."""

    path: Path
    dataset: str = "duets"

    @property
    def id(self) -> str:
        return self.path.stem

    def facts(self) -> dict[str, str]:
        return {"song": self.id}


@dataclass(frozen=True)
class Recording(Given):
    """What is given: a recording [2, samples]."""

    recording: torch.Tensor


@dataclass(frozen=True)
class Songs:
    """Music to borrow."""

    clips: list[MusicClip]

    def signature(self) -> list[str]:
        return [clip.id for clip in self.clips]


class Duets:
    """A task of two channels: music for a recording of three seconds, heard in its place."""

    name, sample_rate, channels = "duets", RATE, 2
    gives = ("recording",)
    columns = {"song": Column("id", "Song")}
    group, levels, sortable = "song", {}, ()
    shared, own = {"recording": "Recording"}, {}
    units, items_called, whole_called = ("song", "songs"), "songs", "take"
    notes: list[str] = []

    def __init__(self, sources: Any, store: Path | None, folder: str) -> None:
        self.seed, self.folder = sources.seed, Path(folder)

    def files(self, items: Sequence[Song]) -> set[Path]:
        return {item.path for item in items}

    def items(self, limit: int | None) -> list[Song]:
        return [Song(path) for path in sorted(self.folder.glob("*.wav"))][:limit]

    def signature(self) -> dict[str, Any]:
        return {"seconds": 3.0}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        return {"music": lambda: Songs(self.reference())}

    def presentation(self, name: str, entry: Mapping[str, Any]) -> Any:
        raise BlendbenchError(f"presentations.{name}: name a _target_")

    def inputs(self, item: Song) -> str:
        return file_hash(item.path)[:16]

    def read(self, item: Song) -> Recording | ClipError:
        try:
            recording = read_music(self._clip(item), RATE, 3.0, self.channels)
        except ClipError as error:
            return error
        return Recording(item, stable_seed(self.seed, item.id), recording.shape[-1], recording)

    def given(self, row: Mapping[str, Any]) -> Recording:
        found = self.read(Song(self.folder / f"{row['song']}.wav"))
        if isinstance(found, ClipError):
            raise found
        return found

    def parts(self, given: Recording, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        assert heard.shape == given.recording.shape
        return {"recording": given.recording}

    def turned(self, row: Mapping[str, Any]) -> float | None:
        return None

    def reference(self) -> list[MusicClip]:
        return [self._clip(item) for item in self.items(None)]

    def reference_seconds(self) -> float:
        return 3.0

    def study(self) -> Study:
        return Study(first="recording")

    def close(self) -> None:
        pass

    @staticmethod
    def _clip(item: Song) -> MusicClip:
        return MusicClip(item.id, item.path, "", "", item.id)


class Swapped:
    """The recording with its channels the other way round, louder by a factor; or their mean, which is no answer."""

    takes, uses = ("recording",), ()

    def __init__(self, label: str, factor: float = 1.0, mono: bool = False) -> None:
        self.label, self.factor, self.mono = label, factor, mono

    def signature(self) -> dict[str, Any]:
        return {"factor": self.factor, "mono": self.mono}

    def prepare(self, context: Context) -> None:
        pass

    def generate(self, given: list[Recording]) -> list[Music]:
        made = [self.factor * one.recording.flip(0) for one in given]
        return [Music(audio.to_mono(wave) if self.mono else wave) for wave in made]


TASK = """
# @package _global_
defaults:
  - /metric: [fad, kl]
task: {_target_: test_stereo.Duets, folder: '???'}
dataset: {duets: {}}
kl: {pairing: random}
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /task: duets
experiment: {name: swapping, title: Swapping, metrics: [fad, kl]}
presentations:
  as_made: {_target_: blendbench.tasks.AsMade, label: As made}
arms:
  swapped: {_target_: test_stereo.Swapped, label: Swapped}
  louder: {_target_: test_stereo.Swapped, label: Louder, factor: 4.0}
  mono: {_target_: test_stereo.Swapped, label: Mono, mono: true}
  random: {_target_: blendbench.methods.random_music.RandomMusic, label: Random music}
"""


def test_stereo_run_gives_stereo_takes_scores_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    songs = {f"song{number}": np.roll(channels_of(4, 3.0), number, axis=0)[:2] for number in range(3)}
    (tmp_path / "songs").mkdir()
    for name, channels in songs.items():
        written(tmp_path / "songs" / f"{name}.wav", channels)
    for name, text in {"task/duets": TASK, "experiment/swapping": EXPERIMENT}.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text.strip())
    heard: list[torch.Size] = []
    score = PocketTagger.score

    def listened(self: PocketTagger, waveform: torch.Tensor) -> Any:
        heard.append(waveform.shape)
        return score(self, waveform)

    monkeypatch.setattr(PocketTagger, "score", listened)
    run = tmp_path / "run"
    words = ["experiment=swapping", f"task.folder={tmp_path}/songs", "allow_targets=[test_stereo]"]
    words += [f"run_dir={run}", f"store_dir={tmp_path}/store", "statistics.resamples=20", "device=cpu"]
    words += ["--config-dir", f"{tmp_path}/conf"]
    assert call("run", *words) == 0

    rows = {(row["arm"], row["song"]): row for row in rows_of(run)}
    assert len(rows) == 12
    for (arm, song), row in rows.items():
        if arm == "mono":
            assert (row["status"], row["reason"]) == (
                "failed", "mono: the music made has shape [132300], not [2, samples]",
            )  # fmt: skip
            continue
        values, rate = soundfile.read(run / row["mix"], dtype="float32")
        assert (values.shape, rate) == ((3 * RATE, 2), RATE)
        wanted = {
            "swapped": songs[song][::-1].T, "louder": 4 * songs[song][::-1].T,
            "random": songs[row.get("music_clip", song)].T,
        }[arm]  # fmt: skip
        assert (row["attenuation_db"] > 0) == (np.abs(wanted).max() > 1)
        np.testing.assert_allclose(values * audio.from_db(row["attenuation_db"]), wanted, atol=1e-6)
    assert any(row.get("attenuation_db", 0) > 0 for row in rows.values())

    results = pd.read_csv(run / "results.csv")
    found = results[results["metric"].isin(["fad", "kl"]) & (results["arm"] != "mono")]
    assert len(found) == 6
    assert np.isfinite(found["value"]).all()
    # Evaluators hear the mean of channels: that of a swapped recording is the recording's own.
    assert set(heard) == {torch.Size([3 * PocketTagger.sample_rate])}
    assert found.set_index(["arm", "metric"])["value"]["swapped", "fad"] == pytest.approx(0, abs=1e-3)

    assert (run / "report" / "index.html").is_file()
    for name, channels in songs.items():
        (file,) = (run / "report" / "audio").glob(f"*{name}*recording*.flac")
        values, _ = soundfile.read(file)
        assert values.shape == (3 * RATE, 2)
        assert np.corrcoef(values[:, 0], channels[0])[0, 1] > 0.999
        assert len(list((run / "report" / "images").glob(f"*{name}*.png"))) == 4  # the recording and three takes

    # A file of other channels is a failed row, and the same command does no more than that.
    count = len(heard)
    written(tmp_path / "songs" / "song2.wav", channels_of(3, 3.0))
    assert call("run", *words) == 0
    again = {(row["arm"], row["song"]): row for row in rows_of(run)}
    assert "has 3 channels, not 1 or 2; mix it down to 2" in again["swapped", "song2"]["reason"]
    assert again["swapped", "song0"] == rows["swapped", "song0"]
    assert len(heard) == count + 1  # the file as reference, whose mean is heard

    # A page without takes has what was given, at the same shape.
    shutil.rmtree(run / "mixes")
    shutil.rmtree(run / "report")
    assert call("report", str(run), "--allow-targets", "test_stereo") == 0
    assert [file.stem.count("recording") for file in (run / "report" / "audio").iterdir()] == [1, 1]
