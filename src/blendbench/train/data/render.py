"""Sound of an arrangement: scores to audio through the FluidSynth program and a General MIDI soundfont.

Conventions: float32, mono unless stereo is asked for. FluidSynth has to load the soundfont at each call, so many scores
are laid one after the other into one MIDI file, parted by rests, and the audio is cut apart again. Clips are 5.12 s at
any offset, brought to one loudness.
"""

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

from blendbench.errors import BlendbenchError
from blendbench.sound.audio import round_off
from blendbench.train.data.arranger import GENRES, Arrangement, arrange
from blendbench.train.data.captions import captions
from blendbench.train.data.songs import Song, read_pop909, split_at

if TYPE_CHECKING:
    import mido
    import pretty_midi
CLIP_SECONDS = 5.12
LOUDNESS = -18.0
SOUNDFONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/opt/homebrew/share/soundfonts/default.sf2",
    "/usr/local/share/soundfonts/default.sf2",
)
# Rest after each score, in seconds: longer than the longest release and the reverb's tail.
_REST = 2.5
_TICKS_PER_SECOND = 1920


def find_soundfont(soundfont: Path | None = None) -> Path:
    """The given General MIDI soundfont, that of BLENDBENCH_SOUNDFONT, or the first found where systems keep them.

    Raises
    ------
    BlendbenchError
        If there is none; the message says what to install.
    """
    asked = soundfont or os.environ.get("BLENDBENCH_SOUNDFONT")
    for path in [Path(asked)] if asked else map(Path, SOUNDFONTS):
        if path.is_file():
            return path
    raise BlendbenchError(
        f"{asked or 'General MIDI soundfont'}: not found; install one (Debian: apt-get install fluid-soundfont-gm) or "
        "set BLENDBENCH_SOUNDFONT to a .sf2 file"
    )


def find_fluidsynth() -> str:
    """Path of the FluidSynth program; raises `BlendbenchError` that says what to install if there is none."""
    program = shutil.which("fluidsynth")
    if program is None:
        raise BlendbenchError("fluidsynth: program not found; install it (Debian: apt-get install fluidsynth)")
    return program


def render(
    midi: "pretty_midi.PrettyMIDI", soundfont: Path | None = None, sample_rate: int = 44100, *, stereo: bool = False
) -> np.ndarray:
    """Render one score.

    Parameters
    ----------
    midi : pretty_midi.PrettyMIDI
        The score; notes in seconds. Of its control changes a track's volume (7) counts, one value a track.
    soundfont : Path, optional
        General MIDI soundfont; see `find_soundfont`.
    sample_rate : int
        In Hz.
    stereo : bool
        Both channels in place of their mean.

    Returns
    -------
    np.ndarray
        Shape (samples,) or (samples, 2), float32, as long as the score and its ringing out (2.5 s); peak at most 1.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the soundfont is missing, or FluidSynth fails.
    """
    return render_many([midi], soundfont, sample_rate, stereo=stereo)[0]


def render_many(
    scores: Sequence["pretty_midi.PrettyMIDI"],
    soundfont: Path | None = None,
    sample_rate: int = 44100,
    *,
    stereo: bool = False,
) -> list[np.ndarray]:
    """Render many scores in one call of FluidSynth; as `render` for each."""
    program, bank = find_fluidsynth(), find_soundfont(soundfont)
    joined, starts = _joined(scores)
    with tempfile.TemporaryDirectory(prefix="blendbench-") as folder:
        score, audio, config = (Path(folder) / name for name in ("score.mid", "audio.wav", "config"))
        joined.save(str(score))
        # Linear interpolation between samples: a fifth faster than the default, and not told apart in a full mix.
        config.write_text("interp 1\n", encoding="ascii")
        settings = {
            "synth.dynamic-sample-loading": 1,
            "synth.polyphony": 64,
            "synth.chorus.active": 0,
            "synth.reverb.room-size": 0.35,
            "synth.reverb.level": 0.5,
            "synth.gain": 0.3,
            "synth.lock-memory": 0,
        }
        command = [program, "-n", "-i", "-q", "-z", "1024", "-r", str(sample_rate), "-T", "wav", "-O", "float"]
        command += [argument for name, value in settings.items() for argument in ("-o", f"{name}={value}")]
        command += ["-f", str(config), "-F", str(audio), str(bank), str(score)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not audio.is_file():
            reason = " ".join((done.stderr or done.stdout).split())[-300:]
            raise BlendbenchError(f"{bank}: fluidsynth failed ({reason}); check that it is a General MIDI soundfont")
        both, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    wave = both if stereo else both.mean(axis=1)
    ends = [*starts[1:], starts[-1] + scores[-1].get_end_time() + _REST]
    pieces = []
    for start, end in zip(starts, ends, strict=True):
        first, length = round(start * rate), round((end - start) * rate)
        piece = np.zeros((length, *wave.shape[1:]), dtype=np.float32)
        heard = wave[first : first + length]
        piece[: len(heard)] = heard
        pieces.append(piece / max(1.0, float(np.abs(piece).max(initial=0.0))))
    return pieces


Job = tuple[str, str, int, str]
"""What to arrange: a song's folder, genre, seed, and the split that it belongs to."""


def jobs(pop909: Path, arrangements: int, held_out: int, draw: np.random.Generator) -> list[list[Job]]:
    """What to arrange, in chunks of eight, songs and genres in turn, held-out ones first.

    Parameters
    ----------
    pop909 : Path
    arrangements, held_out : int
        Of songs to learn from, and of those held out.
    draw : np.random.Generator

    Raises
    ------
    BlendbenchError
        If POP909, FluidSynth or the soundfont is missing.
    """
    own, held = split_at(pop909)
    find_fluidsynth()
    find_soundfont()
    found = []
    for names, count, split in ((held, held_out, "held_out"), (own, arrangements, "train")):
        order = [str(name) for name in draw.permutation(names)] if names else []
        for place in range(count if order else 0):
            turn, index = divmod(place, len(order))
            genre = GENRES[(index + 3 * turn) % len(GENRES)]
            found.append((str(pop909 / order[index]), genre, int(draw.integers(2**31)), split))
    return [found[start : start + 8] for start in range(0, len(found), 8)]


def read(some: Sequence[Job]) -> Iterator[tuple[str, list[tuple[Song, str, int]]]]:
    """Each split among some jobs, and its songs with genre and seed."""
    for split in dict.fromkeys(job[3] for job in some):
        yield split, [(read_pop909(Path(folder)), genre, seed) for folder, genre, seed, one in some if one == split]


def render_clips(
    jobs: Iterable[tuple[Song, str, int]],
    soundfont: Path | None = None,
    sample_rate: int = 44100,
    *,
    seconds: float = 28.0,
    clips_per_job: int = 5,
    clip_seconds: float = CLIP_SECONDS,
    captions_per_clip: int = 3,
    loudness: float = LOUDNESS,
    batch: int = 12,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Arrange, render and cut clips with captions.

    Parameters
    ----------
    jobs : iterable of (Song, genre, seed)
        What to arrange. A job's notes, cuts and captions do not depend on the other jobs; its samples do, inaudibly,
        since the reverb's modulation runs on through a batch.
    soundfont : Path, optional
        See `find_soundfont`.
    sample_rate : int
        In Hz.
    seconds : float
        Music rendered a job; from a seeded bar where the melody is active.
    clips_per_job : int
        Clips cut from it, spread evenly with seeded offsets; they overlap if there are more than fit.
    clip_seconds : float
        Length of a clip; 5.12 s are 225,792 samples at 44.1 kHz.
    captions_per_clip : int
        Captions for each clip.
    loudness : float
        Integrated loudness of each clip, in LUFS (ITU-R BS.1770-4); peaks above 0.8 are rounded off to stay below 1.
    batch : int
        Jobs rendered in one call of FluidSynth.

    Yields
    ------
    clip : np.ndarray
        Shape (samples,), float32.
    metadata : dict
        song, genre, style, seed, index, start_s, tempo, tempo_word, key, mood, production, lead, accompaniment, bass,
        drums, instruments, captions. Clips of near silence (below -50 LUFS) are left out.

    Raises
    ------
    BlendbenchError
        See `render` and `arrange`.
    """
    waiting: list[Arrangement] = []
    for song, genre, seed in jobs:
        waiting.append(arrange(song, genre, seed, seconds))
        if len(waiting) == batch:
            yield from cut_clips(
                waiting, soundfont, sample_rate, clips_per_job, clip_seconds, captions_per_clip, loudness
            )
            waiting = []
    if waiting:
        yield from cut_clips(waiting, soundfont, sample_rate, clips_per_job, clip_seconds, captions_per_clip, loudness)


def cut_clips(
    arrangements: list[Arrangement],
    soundfont: Path | None = None,
    sample_rate: int = 44100,
    clips_per_job: int = 5,
    clip_seconds: float = CLIP_SECONDS,
    captions_per_clip: int = 3,
    loudness: float = LOUDNESS,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Render arrangements in one call of FluidSynth and cut clips with captions; as `render_clips`."""
    import pyloudnorm

    meter = pyloudnorm.Meter(sample_rate)
    length = round(clip_seconds * sample_rate)
    for arrangement, audio in zip(
        arrangements, render_many([a.midi for a in arrangements], soundfont, sample_rate), strict=True
    ):
        facts = arrangement.facts
        rng = random.Random(f"clips/{facts.song}/{facts.genre}/{facts.seed}")
        # The last notes are cut off mid-bar by the excerpt's end: clips end before the ringing out.
        room = max(len(audio) - round(_REST * sample_rate) - length, 0)
        for index in range(clips_per_job):
            first = round(room * (index + rng.random()) / clips_per_job)
            clip = audio[first : first + length]
            if len(clip) < length:
                continue
            level = meter.integrated_loudness(clip)
            if not level > -50.0:
                continue
            yield (
                _leveled(clip, loudness - level),
                {
                    "song": facts.song,
                    "genre": facts.genre,
                    "style": facts.style,
                    "seed": facts.seed,
                    "index": index,
                    "start_s": round(first / sample_rate, 3),
                    "tempo": facts.tempo,
                    "tempo_word": facts.tempo_word,
                    "key": facts.key,
                    "mood": facts.mood,
                    "production": facts.production,
                    "lead": facts.lead,
                    "accompaniment": list(facts.accompaniment),
                    "bass": facts.bass,
                    "drums": facts.drums,
                    "instruments": list(facts.instruments),
                    "captions": captions(facts, _caption_seed(facts.song, facts.seed, index), captions_per_clip),
                },
            )


def _leveled(clip: np.ndarray, gain_db: float) -> np.ndarray:
    """A clip under a gain, its peaks rounded off, so that drums leave room for one loudness of all clips."""
    return round_off(torch.from_numpy(clip * 10 ** (gain_db / 20)), 0.99).numpy().astype(np.float32)


def _caption_seed(song: str, seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{song}/{seed}/{index}".encode()).digest()[:6], "big")


def _joined(scores: Sequence["pretty_midi.PrettyMIDI"]) -> tuple["mido.MidiFile", list[float]]:
    """One MIDI file of all scores with rests between them, and the start of each, in seconds."""
    import mido

    starts, cursor = [], 0.0
    # (tick, order within the tick, message): resets, then note ends, then note starts.
    events: list[tuple[int, int, mido.Message]] = []
    for score in scores:
        starts.append(cursor)
        at = round(cursor * _TICKS_PER_SECOND)
        melodic = itertools.cycle([c for c in range(16) if c != 9])
        for instrument in score.instruments:
            channel = 9 if instrument.is_drum else next(melodic)
            # The last volume set; 100 is General MIDI's own.
            level = next((c.value for c in reversed(instrument.control_changes) if c.number == 7), 100)
            events += [
                (at, 0, mido.Message("control_change", channel=channel, control=120, value=0)),
                (at, 0, mido.Message("control_change", channel=channel, control=121, value=0)),
                (at, 0, mido.Message("control_change", channel=channel, control=7, value=level)),
                (at, 0, mido.Message("control_change", channel=channel, control=91, value=40)),
                (at, 0, mido.Message("control_change", channel=channel, control=93, value=0)),
                (at, 0, mido.Message("program_change", channel=channel, program=instrument.program)),
            ]
            for n in instrument.notes:
                begin = round((cursor + n.start) * _TICKS_PER_SECOND)
                end = max(round((cursor + n.end) * _TICKS_PER_SECOND), begin + 1)
                events.append((begin, 2, mido.Message("note_on", channel=channel, note=n.pitch, velocity=n.velocity)))
                events.append((end, 1, mido.Message("note_off", channel=channel, note=n.pitch, velocity=0)))
        cursor += score.get_end_time() + _REST
    events.sort(key=lambda e: e[:2])
    # 960 ticks a beat at 120 beats a minute are `_TICKS_PER_SECOND`.
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])
    last = 0
    for tick, _, message in events:
        track.append(message.copy(time=tick - last))
        last = tick
    track.append(mido.MetaMessage("end_of_track", time=round(_REST * _TICKS_PER_SECOND)))
    file = mido.MidiFile(type=0, ticks_per_beat=_TICKS_PER_SECOND // 2)
    file.tracks.append(track)
    return file, starts
