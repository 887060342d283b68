"""Captions of an arrangement, as a listener would write a prompt for it.

Every caption names the genre in some form and only what was arranged; wording, length and upper or lower case vary with
the seed.
"""

import random
import re
from collections.abc import Callable

from blendbench.train.data.arranger import Facts

# Forms of each genre's name; any of them in a caption counts as naming the genre.
GENRE_WORDS: dict[str, tuple[str, ...]] = {
    "Pop": ("pop song", "pop track", "pop tune", "pop music", "pop instrumental"),
    "EDM": ("EDM track", "electronic dance music", "EDM", "electronic dance track", "club dance track", "EDM song"),
    "Rock": ("rock song", "rock track", "rock music", "rock instrumental", "rock tune"),
    "Hip-hop": ("hip-hop beat", "hip hop beat", "hip-hop track", "hip hop instrumental", "rap beat", "hip-hop music"),
    "Punk": ("punk song", "punk rock song", "punk track", "punk rock", "punk music"),
    "Jazz": ("jazz piece", "jazz tune", "jazz track", "jazz music", "jazz instrumental"),
    "Classical": (
        "classical piece",
        "classical music",
        "classical instrumental",
        "classical composition",
        "piece of classical music",
    ),
}
# Moods that fit every style of a genre: what prompts for it usually ask for.
GENRE_MOODS: dict[str, tuple[str, ...]] = {
    "Pop": ("cheerful", "catchy", "upbeat", "bright", "melodic"),
    "EDM": ("energetic", "pulsing", "electronic", "danceable", "high-energy"),
    "Rock": ("driving", "powerful", "electric", "energetic", "loud"),
    "Hip-hop": ("laid-back", "groovy", "cool", "chilled", "urban"),
    "Punk": ("fast", "aggressive", "energetic", "raw", "rebellious"),
    "Jazz": ("smooth", "cool", "relaxed", "sophisticated", "mellow"),
    "Classical": ("elegant", "gentle", "graceful", "expressive", "beautiful"),
}
TEMPO_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slow-paced", "unhurried"),
    "mid-tempo": ("mid-tempo", "medium-paced", "steady"),
    "fast": ("fast", "fast-paced", "up-tempo"),
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "electric piano": ("electric piano", "Rhodes", "Rhodes electric piano"),
    "vibraphone": ("vibraphone", "vibes"),
    "distorted guitar": ("distorted guitars", "distorted electric guitar", "heavy guitars", "fuzzy guitars"),
    "overdriven guitar": ("overdriven guitar", "crunchy electric guitar", "overdriven electric guitar"),
    "electric guitar": ("electric guitar", "clean electric guitar"),
    "acoustic guitar": ("acoustic guitar", "strummed acoustic guitar"),
    "saw synth lead": ("saw synth lead", "bright synth lead", "saw lead"),
    "square synth lead": ("square synth lead", "square-wave synth", "synth lead"),
    "synth lead": ("synth lead", "synthesizer lead"),
    "polysynth": ("polysynth", "synth chords", "synthesizers"),
    "synth pad": ("synth pad", "wide pads", "atmospheric pads"),
    "warm pad": ("warm pad", "warm synth pads", "soft pads"),
    "sweeping pad": ("sweeping pad", "wide synth pads", "airy pads"),
    "strings": ("strings", "string ensemble", "string section"),
    "acoustic bass": ("acoustic bass", "upright bass", "double bass"),
    "walking acoustic bass": ("walking acoustic bass", "walking bass", "walking upright bass"),
    "electric bass": ("electric bass", "bass guitar"),
    "picked bass": ("picked bass", "bass guitar", "driving bass guitar"),
    "synth bass": ("synth bass", "deep synth bass", "electronic bass"),
    "deep 808 bass": ("deep 808 bass", "808s", "booming 808 bass"),
    "tenor saxophone": ("tenor saxophone", "tenor sax", "saxophone"),
    "alto saxophone": ("alto saxophone", "alto sax", "saxophone"),
    "soprano saxophone": ("soprano saxophone", "soprano sax", "saxophone"),
    "pizzicato strings": ("pizzicato strings", "plucked strings"),
    "nylon guitar": ("nylon guitar", "nylon-string guitar", "soft acoustic guitar"),
    "jazz guitar": ("jazz guitar", "mellow jazz guitar"),
    "piano": ("piano", "piano", "grand piano"),
}
# What the tune is called beside its instrument.
_TUNES = ("melody", "melody", "lead melody", "hook", "line", "theme")
# Words that show a caption to name its genre.
GENRE_KEYS: dict[str, tuple[str, ...]] = {
    "Pop": ("pop",),
    "EDM": ("edm", "electronic", "house", "trance", "techno", "club"),
    "Rock": ("rock",),
    "Hip-hop": ("hip-hop", "hip hop", "rap", "chillhop"),
    "Punk": ("punk",),
    "Jazz": ("jazz",),
    "Classical": ("classical", "chamber music", "baroque"),
}
# What a bar pattern makes of the instrument that plays it.
_CHORD_PHRASES: dict[str, tuple[str, ...]] = {
    "arpeggio": ("gentle {} arpeggios", "{} arpeggios"),
    "arpeggio16": ("fast {} arpeggios",),
    "alberti": ("flowing {} arpeggios", "{} figures"),
    "charleston": ("{} comping",),
    "swing comping": ("{} comping",),
    "bossa": ("gentle {} comping", "syncopated {} chords"),
    "house stabs": ("{} stabs",),
    "pumped": ("pumping {} chords",),
    "strum": ("strummed {} chords",),
    "power eighths": ("{} power chords", "fast {} power chords"),
    "power chords": ("{} power chords",),
    "gallop": ("galloping {} power chords",),
    "power sustained": ("{} power chords",),
    "tremolo": ("tremolo {}",),
    "sustained": ("warm {} harmonies",),
}
_BASS_PHRASES: dict[str, tuple[str, ...]] = {
    "off-beat": ("off-beat {}",),
    "rolling": ("rolling {}",),
    "sixteenths": ("pulsing {}",),
    "eighths": ("driving {}", "driving {} eighth notes"),
    "kick": ("deep {}",),
}
_PLURAL = re.compile(r"[^sa]s$")
_PLURAL_GUITAR = re.compile(r"guitars$")
_COMMON = frozenset(
    (
        *("a", "an", "and", "the", "of", "on", "over", "with", "in", "at", "this", "is", "to", "by"),
        *("guitar", "guitars", "bass", "synth", "piano", "drums", "drum", "strings", "string", "saxophone"),
        *("lead", "electric", "acoustic", "chords", "power", "rock", "pop", "jazz", "hip", "hop", "music", "beat"),
    )
)


def captions(facts: Facts, seed: int, n: int) -> list[str]:
    """Write captions.

    Parameters
    ----------
    facts : Facts
        What was arranged.
    seed : int
        Chooses the wording.
    n : int
        Number of captions, each different as far as wording allows.

    Returns
    -------
    list of str
        `n` captions.
    """
    rng = random.Random(f"captions/{facts.song}/{facts.genre}/{facts.seed}/{seed}")
    written: list[str] = []
    while len(written) < n:
        for _ in range(8):
            caption = _caption(facts, rng)
            if caption not in written:
                break
        written.append(caption)
    return written


def _caption(facts: Facts, rng: random.Random) -> str:
    for _ in range(12):
        text = " ".join(rng.choice(_PHRASES)(_Words(facts, rng)).split())
        if not _stutters(text):
            break
    style = rng.random()
    if style < 0.55:
        text = text[0].upper() + text[1:]
        return text if text.endswith(".") or rng.random() < 0.25 else text + "."
    return text.rstrip(".") if style < 0.85 else text.rstrip(".").lower()


def _stutters(text: str) -> bool:
    """Whether a telling word comes twice, as in "a fast, fast punk song"."""
    words = [word for word in re.findall(r"[a-z]+", text.lower()) if word not in _COMMON]
    return len(set(words)) < len(words)


class _Words:
    """Words for the facts, drawn anew at each mention."""

    def __init__(self, facts: Facts, rng: random.Random) -> None:
        self.facts, self.rng = facts, rng

    @property
    def kind(self) -> str:
        """The genre in some form, often the style's own name."""
        return self.rng.choice(GENRE_WORDS[self.facts.genre] if self.rng.random() < 0.55 else self.facts.names)

    @property
    def genre(self) -> str:
        """The plain name of the genre."""
        if self.facts.genre == "Hip-hop":
            return self.rng.choice(("hip-hop", "hip hop"))
        return self.facts.genre if self.facts.genre == "EDM" else self.facts.genre.lower()

    @property
    def mood(self) -> str:
        """The style's mood, or one that the genre is asked for by."""
        return self.facts.mood if self.rng.random() < 0.7 else self.rng.choice(GENRE_MOODS[self.facts.genre])

    @property
    def production(self) -> str:
        """How it sounds as a recording."""
        return self.facts.production

    @property
    def tempo(self) -> str:
        """The tempo in words."""
        return self.rng.choice(TEMPO_WORDS[self.facts.tempo_word])

    @property
    def bpm(self) -> str:
        """The tempo in beats a minute."""
        return f"{round(self.facts.tempo)} BPM"

    @property
    def lead(self) -> str:
        """The instrument of the tune, in the singular."""
        names = SYNONYMS.get(self.facts.lead, (self.facts.lead,))
        return self.rng.choice([name for name in names if not _PLURAL.search(name)] or [self.facts.lead])

    @property
    def tune(self) -> str:
        """The lead with what it plays and an article: "a tenor sax melody", "a bright synth lead"."""
        lead = self.lead
        return self.a(lead if lead.endswith("lead") else f"{lead} {self.rng.choice(_TUNES)}")

    @property
    def chords(self) -> str:
        """The first accompanying instrument, at times with what it plays."""
        said = self.word(self.facts.accompaniment[0])
        phrases = _CHORD_PHRASES.get(self.facts.chord_pattern, ("{} chords",))
        if self.rng.random() < 0.5 or said.endswith("chords"):
            return said
        return self.rng.choice(phrases).format(_PLURAL_GUITAR.sub("guitar", said))

    @property
    def bass(self) -> str:
        """The bass, at times with how it plays."""
        said = self.word(self.facts.bass)
        phrases = _BASS_PHRASES.get(self.facts.bass_pattern)
        return said if phrases is None or self.rng.random() < 0.6 else self.rng.choice(phrases).format(said)

    @property
    def drums(self) -> str:
        """The drums, mostly with what they play."""
        text = self.facts.drums if self.rng.random() < 0.7 else "drums"
        return text if text.endswith(("s", "hats")) or " and " in text else self.a(text)

    @property
    def backing(self) -> str:
        """All that accompanies the lead, as a list in words."""
        others = [word for word in self.facts.accompaniment[1:] if word != self.facts.lead]
        parts = [self.chords] if self.facts.accompaniment[0] != self.facts.lead or not others else []
        parts += map(self.word, others)
        if self.facts.bass not in (self.facts.lead, *self.facts.accompaniment):
            parts.append(self.bass)
        if self.facts.drums:
            parts.append(self.drums)
        return listed(list(dict.fromkeys(parts)))

    @property
    def everything(self) -> str:
        """All instruments, lead first."""
        return listed(list(dict.fromkeys(map(self.word, self.facts.instruments))))

    @property
    def rhythm(self) -> str:
        """What drives the piece."""
        if self.facts.drums:
            return f"{self.bass} and {self.drums}"
        return f"{self.chords} and {self.bass}" if self.facts.bass not in self.facts.accompaniment else self.chords

    def word(self, instrument: str) -> str:
        """One of an instrument's names."""
        return self.rng.choice(SYNONYMS.get(instrument, (instrument,)))

    def a(self, text: str) -> str:
        """The text with its article, where it needs one."""
        if text.endswith(("music", "EDM", "punk rock", "pop")):
            return text
        return ("an " if text[:1].lower() in "aeiou" and not text.startswith("eu") else "a ") + text


def listed(words: list[str]) -> str:
    """Words as a list in a sentence: "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


_PHRASES: tuple[Callable[[_Words], str], ...] = (
    lambda w: f"{w.a(f'{w.mood} {w.kind}')} with {w.tune} over {w.backing}.",
    lambda w: f"{w.a(f'{w.mood} {w.kind}')} with {w.tune} over {w.backing}.",
    lambda w: f"{w.a(f'{w.mood} {w.kind}')} featuring {w.everything}.",
    lambda w: f"{w.mood} {w.kind}",
    lambda w: f"{w.mood} {w.genre}",
    lambda w: f"{w.genre} music with {w.lead}",
    lambda w: f"{w.kind}",
    lambda w: f"{w.mood} {w.kind} with {w.lead}",
    lambda w: f"{w.mood} {w.kind} with {w.rhythm}",
    lambda w: f"{w.a(f'{w.tempo}, {w.mood} {w.kind}')} with {w.rhythm}.",
    lambda w: f"{w.a(f'{w.tempo} {w.kind}')} at {w.bpm}, {w.mood} and {w.production}, with {w.everything}.",
    lambda w: f"{w.tune} plays over {w.backing} in this {w.mood} {w.kind}.",
    lambda w: f"this is {w.a(f'{w.mood} {w.kind}')}. The {w.lead} carries the melody, backed by {w.backing}.",
    lambda w: f"{w.genre}, {w.mood}, {w.lead}, {w.rhythm}, {w.bpm}",
    lambda w: f"{w.genre}, {w.everything}, {w.mood}, {w.production}",
    lambda w: f"{w.a(f'{w.production} {w.kind}')} built on {w.rhythm}, with {w.tune}.",
    lambda w: f"instrumental {w.genre}: {w.everything}, {w.mood} and {w.tempo}",
    lambda w: f"{w.everything} play {w.a(f'{w.mood} {w.kind}')}",
    lambda w: f"{w.a(f'{w.mood} and {w.production} {w.kind}')} with {w.chords} and {w.tune}.",
    lambda w: f"{w.a(f'{w.tempo} {w.genre} instrumental')} in {w.facts.key} with {w.lead} and {w.chords}.",
)
