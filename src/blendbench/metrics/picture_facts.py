"""Picture facts: whether music has the tempo, the mode and the drums that a picture tells of and its caption does not.

All three are estimated from the waveform, without anything learnt: what a model was trained on does not matter to them.
What can be seen is bounded by how often they are right of music whose facts are known. Of 168 clips of 5.12 s, two each
of 84 songs, arranged and rendered, 75 to 150 beats a minute, drums in 43 %:

- tempo: 97 %; chance is 11.5 %, the share of an octave that lies within 4 % of a tempo. librosa's own, 73 %.
- mode: 67 % (66 % with major and minor weighted alike; Krumhansl's profiles 60 %); chance is half. Little is to be had:
  of the very notes, the same profiles tell the song's mode in 66 % of 5 s, and in 77 % of 20 s, as a song in C major is
  now and then in A minor. Differences between arms come out at a third of their size: it takes many clips.
- drums: 100 %, and 96 % up to 7.8 kHz. The built-in tagger hears drums in nearly all clips of bands (64 % right at a
  probability of .5). Clicks and steady noise count as drums, so what is measured must be music alone.

After a mel image and Griffin-Lim that is 97, 67 and 99 %, and through the built-in generator's autoencoder, of 112 of
the clips, 99, 62 and 97 %. Two thirds of the clips chose how drums are told, one third how tempi are; on the others
both are as good. One synthesizer rendered all: nothing is known of recordings.

Waveforms are one channel at 22,050 Hz.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound
from blendbench.metrics.likeness import RATE, chroma, low

HOP = 512
SLOWEST, SHORTEST = 75.0, 3.0
"""Beats a minute where the octave begins that all tempi are counted in; seconds that a tempo is heard from."""
STEPS = 400
"""Of the octave; a step is .17 % of a tempo."""
LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Beats after which a piece is like itself: sixteenths to bars."""
MODES = ("major", "minor")
PROFILES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "krumhansl": (
        (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
        (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
    ),
    "albrecht": (
        (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
        (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
    ),
}
"""Weights of pitch classes in major and minor, tonic first: what listeners find fitting (Krumhansl and Kessler, 1982),
and how often they occur (Albrecht and Shanahan, 2013)."""
LOWEST = 5000.0
"""Hz above which little but drums has energy that is not tones."""
FAINTEST = 1e-5
"""Share of a sound's energy below which that is leakage and rounding: 14 dB under the least of rendered drums."""
_FRAME = 1024


class PictureFacts(ItemMetric):
    """Whether the heard tempo, mode and drums are those that the row tells: 1 or 0 each, nan where it tells none.

    Silence has none of them, nor what is shorter than three seconds a tempo.

    Parameters
    ----------
    tempo, mode, drums : str
        Columns of the row: beats a minute, as text or number; "major" or "minor"; "yes" or "no".
    tolerance : float
        Of the tempo, as a share of it; half, double and further octaves of it count as right.
    profiles : {"albrecht", "krumhansl"}
        See `PROFILES`.
    highest : float
        In Hz: what is above counts nothing for drums. A model's highest frequency, where that is below 10 kHz.
    flatness : float
        See `drum_flatness`; above it there are drums. .35 goes with 7,800 Hz.
    """

    facts = {
        "tempo_agrees": Facts(
            "Tempo right", "share", True, "octaves counted; autocorrelation of librosa onset_strength"
        ),
        "mode_agrees": Facts(
            "Mode right", "share", True, "Krumhansl (1990), key finding by profiles, on librosa chroma_cqt"
        ),
        "drums_agree": Facts("Drums right", "share", True, "flatness of the percussive part of librosa hpss"),
    }

    def __init__(
        self,
        tempo: str = "tempo",
        mode: str = "mode",
        drums: str = "drums",
        tolerance: float = 0.04,
        profiles: Literal["albrecht", "krumhansl"] = "albrecht",
        highest: float = 10_000.0,
        flatness: float = 0.3,
    ) -> None:
        if not 0 < tolerance < 0.2:
            raise BlendbenchError(f"tolerance={tolerance}: give a share of the tempo above 0 and below 0.2")
        if profiles not in PROFILES:
            raise BlendbenchError(f"profiles={profiles}: choose {' or '.join(PROFILES)}")
        if not LOWEST + 1000 <= highest <= RATE / 2:
            raise BlendbenchError(f"highest={highest:g}: give {LOWEST + 1000:g} to {RATE / 2:g} Hz")
        self.tempo, self.mode, self.drums = tempo, mode, drums
        self.tolerance, self.profiles, self.highest, self.flatness = tolerance, profiles, highest, flatness

    def signature(self) -> dict[str, Any]:
        """All settings."""
        names = ("tempo", "mode", "drums", "tolerance", "profiles", "highest", "flatness")
        return super().signature() | {name: getattr(self, name) for name in names}

    def key(self, sound: Sound) -> str:
        """The sound's, with what the row tells."""
        told = [sound.row.get(column) for column in (self.tempo, self.mode, self.drums)]
        return f"{super().key(sound)}:{told}"

    def measure(self, sound: Sound) -> dict[str, float]:
        """1 or 0 by name, nan where the row does not tell it or the sound has none.

        Raises
        ------
        ClipError
            The row tells it in other words, or the sound is shorter than a tenth of a second.
        """
        tempo, mode, drums = self._told(sound.row)
        found = dict.fromkeys(self.facts, float("nan"))
        if tempo is None and mode is None and drums is None:
            return found
        wave = low(sound.waveform())
        if not wave.any():
            return found
        if tempo is not None:
            heard = tempo_of(wave)
            found["tempo_agrees"] = heard if math.isnan(heard) else float(tempo_agrees(heard, tempo, self.tolerance))
        if mode is not None:
            key = mode_of(wave, self.profiles)
            found["mode_agrees"] = math.nan if key is None else float(key == mode)
        if drums is not None:
            found["drums_agree"] = float((drum_flatness(wave, self.highest) > self.flatness) == (drums == "yes"))
        return found

    def recipe(self, name: str, measured: Measured) -> str:
        """The value's source, with the setting that it depends on."""
        settings = {
            "tempo_agrees": f"within {100 * self.tolerance:g} %",
            "mode_agrees": f"profiles={self.profiles}",
            "drums_agree": f"above {self.flatness:g}, 5 to {self.highest / 1000:g} kHz",
        }
        return f"{super().recipe(name, measured)}, {settings[name]}"

    def _told(self, row: Mapping[str, Any]) -> tuple[float | None, str | None, str | None]:
        """Tempo, mode and drums of a row; None for what it does not tell."""
        text = _text(row, self.tempo)
        try:
            tempo = None if text is None else float(text)
        except ValueError:
            tempo = math.nan
        if tempo is not None and not (math.isfinite(tempo) and tempo > 0):
            raise ClipError(f"{self.tempo} is {printable(text or '')!r}; give beats a minute, or nothing")
        return tempo, _word(row, self.mode, MODES), _word(row, self.drums, ("yes", "no"))


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None or not str(value).strip() else str(value).strip()


def _word(row: Mapping[str, Any], column: str, words: tuple[str, str]) -> str | None:
    text = _text(row, column)
    if text is not None and text.lower() not in words:
        raise ClipError(f"{column} is {printable(text)!r}; give {words[0]} or {words[1]}, or nothing")
    return None if text is None else text.lower()


def tempo_of(wave: np.ndarray) -> float:
    """Tempo in 75 to 150 beats a minute, the octave that others are counted in; nan where nothing sets in.

    The tempo after whose quarter, half, whole, two and four beats the strength of onsets is most like itself: which of
    those is *the* beat need not be told. On clips of 5 s that is right where a tracker of beats, which has to choose,
    takes another level or a ratio of three.

    Parameters
    ----------
    wave : ndarray [samples]
        At 22,050 Hz; nan under three seconds.

    Source: after Grosche, Müller and Kurth (2010), Cyclic tempogram, with autocorrelation.
    """
    import librosa

    if len(wave) < SHORTEST * RATE:
        return math.nan
    strength = librosa.onset.onset_strength(y=wave, sr=RATE, hop_length=HOP)
    strength = strength - strength.mean()
    if strength.std() < 1e-6:
        return math.nan
    frames = len(strength)
    lags = np.arange(frames)
    # Fewer frames meet at longer lags.
    alike = librosa.autocorrelate(strength) / (frames - lags)
    tempi = SLOWEST * 2 ** (np.arange(STEPS) / STEPS)
    beats = np.outer(LEVELS, 60 / tempi * RATE / HOP)
    counted = beats < 0.7 * frames
    scores = np.where(counted, np.interp(beats, lags, alike), 0.0).sum(0) / counted.sum(0)
    return float(tempi[scores.argmax()])


def tempo_agrees(heard: float, told: float, tolerance: float = 0.04) -> bool:
    """Whether two tempi in beats a minute are the same, or octaves of each other, within a share of the told one."""
    octaves = math.log2(heard / told)
    return abs(2 ** (octaves - round(octaves)) - 1) <= tolerance


def mode_of(wave: np.ndarray, profiles: str = "albrecht") -> str | None:
    """The mode, "major" or "minor", of the key whose profile correlates most with the mean chroma; None without tones.

    Parameters
    ----------
    wave : ndarray [samples]
        At 22,050 Hz.
    profiles : str
        A name in `PROFILES`.

    Source: Krumhansl (1990), Cognitive Foundations of Musical Pitch, the Krumhansl-Schmuckler algorithm.
    """
    return mode_of_weights(chroma(wave).mean(1), profiles)


def mode_of_weights(weights: np.ndarray, profiles: str = "albrecht") -> str | None:
    """As `mode_of`, of weights [12] of pitch classes, C first; None where all are alike."""
    if not weights.std() > 1e-9:
        return None
    best = [
        max(float(np.corrcoef(np.roll(profile, tonic), weights)[0, 1]) for tonic in range(12))
        for profile in PROFILES[profiles]
    ]
    return MODES[int(np.argmax(best))]


def drum_flatness(wave: np.ndarray, highest: float = 10_000.0) -> float:
    """Spectral flatness in 0..1 of what is percussive above 5 kHz, in its loudest tenth: near that of noise with drums.

    Cymbals and snares are noise there, plucked and struck tones are not, however percussive. 0 where there is next to
    nothing above 5 kHz.

    Parameters
    ----------
    wave : ndarray [samples]
        At 22,050 Hz; its level does not matter.
    highest : float
        Upper end of the band, in Hz.
    """
    import librosa

    spectrum = np.abs(librosa.stft(wave / max(float(np.abs(wave).max()), 1e-9), n_fft=_FRAME, hop_length=_FRAME // 4))
    frequencies = librosa.fft_frequencies(sr=RATE, n_fft=_FRAME)
    _, percussive = librosa.decompose.hpss(spectrum)
    band = percussive[(frequencies > LOWEST) & (frequencies < highest)]
    energy = np.square(band).sum(0)
    if energy.sum() <= FAINTEST * np.square(spectrum).sum():
        return 0.0
    loudest = band[:, energy >= np.quantile(energy, 0.9)]
    return float(np.median(librosa.feature.spectral_flatness(S=loudest)))
