"""Data sets: noise clips, music clips and prompts, each read from its official layout, and their deterministic pairing.

A data set is a function that returns a list of clips, named by `_target_` in `conf/dataset` or `conf/music`; it reads
tables only, so a clip's audio is opened when its pair's turn comes and a bad file costs one row, not the run.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text prompt and its genre."""

    id: str
    genre: str
    text: str


@dataclass(frozen=True, slots=True)
class NoiseClip:
    """A noise recording, or a segment of a longer one.

    Attributes
    ----------
    id : str
        Unique in its data set.
    path : Path
        The audio file, or an HDF5 file.
    label : str
        Class of the sound.
    source : str
        The recording it was cut from.
    fold : int or None
        Fold of the data set's own cross-validation.
    licence : str
        Under which the clip is published; empty where the data set does not say.
    span : (float, float) or None
        Where the segment begins and ends in the recording, in seconds; None for the whole file.
    member : str
        Name of the recording in an HDF5 file; empty for audio files.
    root : Path or None
        Folder that the file must not leave by way of links; None if links may lead anywhere.
    prompts : tuple of Prompt
        The clip's own prompts, which take the place of drawn ones.
    member_rate : int
        Sample rate of the recording in an HDF5 file, which does not say it, in Hz; by default that of EPIC-SOUNDS.
    """

    id: str
    path: Path
    label: str
    source: str
    fold: int | None = None
    licence: str = ""
    span: tuple[float, float] | None = None
    member: str = ""
    root: Path | None = None
    prompts: tuple[Prompt, ...] = ()
    member_rate: int = 24_000

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return (self.path,)


@dataclass(frozen=True, slots=True)
class MusicClip:
    """A music recording, or a part of one.

    Attributes
    ----------
    id : str
        Unique in its set.
    path : Path
        The audio file.
    genre, caption : str
        Empty where the set does not say.
    source : str
        The track; halves of a music set never share one.
    start : float
        Where the clip begins in the file, in seconds.
    root : Path or None
        As for a noise clip.
    """

    id: str
    path: Path
    genre: str
    caption: str
    source: str
    start: float = 0.0
    root: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return (self.path,)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A place in a set of nothing: what music is made without any recording for."""

    id: str


@dataclass(frozen=True, slots=True)
class StemClip:
    """A stretch of music whose stems are apart, or are to be told apart.

    Attributes
    ----------
    id : str
        Unique in its set.
    background : tuple of Path
        Files whose sum is what a part is added to.
    part : tuple of Path
        Files whose sum is the part; empty where nobody has played one.
    prompt : str
        What is asked for.
    genre : str
        Empty where the set does not say.
    source : str
        The track.
    instrument : str
        What the part is.
    start : float
        Where the stretch begins in the files, in seconds.
    mixed : bool
        Whether `background` is a whole mix, of which a separator has yet to take the part.
    root : Path or None
        As for a noise clip.
    """

    id: str
    background: tuple[Path, ...]
    part: tuple[Path, ...]
    prompt: str
    genre: str
    source: str
    instrument: str = ""
    start: float = 0.0
    mixed: bool = False
    root: Path | None = None

    @property
    def path(self) -> Path:
        """Its first file."""
        return self.background[0]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return self.background + self.part


@dataclass(frozen=True, slots=True)
class PictureClip:
    """A picture with words, and the music that belongs to them where there is some.

    Attributes
    ----------
    id : str
        Unique in its set.
    image : Path or None
        None where the row names none.
    audio : Path or None
        None where the set has words and pictures alone.
    caption : str
    genre, category : str
        Of the music, and what kind of picture it is; empty where the set does not say.
    source : str
        The music; several pictures may be of one.
    tempo, mode, drums : str
        What the picture tells of the music, where that is known: beats a minute, "major" or "minor", "yes" or "no".
    root : Path or None
        As for a noise clip.
    """

    id: str
    image: Path | None
    audio: Path | None
    caption: str
    genre: str
    category: str
    source: str
    tempo: str = ""
    mode: str = ""
    drums: str = ""
    root: Path | None = None

    @property
    def path(self) -> Path:
        """Its first file."""
        return self.paths[0]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return tuple(one for one in (self.image, self.audio) if one is not None)
