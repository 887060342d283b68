"""Arrangements: a song set for the instruments, tempo and drum patterns of one of seven genres.

Each genre has several styles; a seed picks the style, instruments, tempo, transposition, fills, density and the parts'
volumes, and moves notes and velocities a little off the grid as players do. The same song, genre and seed give the same
notes.

Conventions: inside, times are in beats; in an `Arrangement` they are in seconds. Drum patterns are sixteenth steps of a
bar: `X` accent, `x` normal, `o` ghost, `.` rest.
"""

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blendbench.errors import BlendbenchError
from blendbench.train.data.songs import PITCH_NAMES, QUALITIES, Chord, Note, Song

if TYPE_CHECKING:
    import pretty_midi
GENRES = ("Pop", "EDM", "Rock", "Hip-hop", "Punk", "Jazz", "Classical")
# General MIDI programs (0-based) and the words a listener would use for them.
PROGRAM_WORDS = {
    0: "piano",
    1: "bright piano",
    2: "electric grand piano",
    4: "electric piano",
    5: "electric piano",
    6: "harpsichord",
    8: "celesta",
    9: "glockenspiel",
    11: "vibraphone",
    12: "marimba",
    16: "organ",
    17: "organ",
    18: "rock organ",
    24: "nylon guitar",
    25: "acoustic guitar",
    26: "jazz guitar",
    27: "electric guitar",
    28: "muted guitar",
    29: "overdriven guitar",
    30: "distorted guitar",
    32: "acoustic bass",
    33: "electric bass",
    34: "picked bass",
    35: "fretless bass",
    36: "slap bass",
    38: "synth bass",
    39: "synth bass",
    40: "violin",
    41: "viola",
    42: "cello",
    43: "double bass",
    45: "pizzicato strings",
    46: "harp",
    48: "strings",
    49: "strings",
    50: "synth strings",
    52: "choir",
    54: "vocal synth",
    56: "trumpet",
    57: "trombone",
    59: "muted trumpet",
    60: "french horn",
    61: "brass section",
    62: "synth brass",
    64: "soprano saxophone",
    65: "alto saxophone",
    66: "tenor saxophone",
    68: "oboe",
    70: "bassoon",
    71: "clarinet",
    73: "flute",
    80: "square synth lead",
    81: "saw synth lead",
    82: "synth lead",
    87: "synth lead",
    88: "synth pad",
    89: "warm pad",
    90: "polysynth",
    94: "synth pad",
    95: "sweeping pad",
}
KICK, STICK, SNARE, CLAP, HAT, PEDAL_HAT, OPEN_HAT = 36, 37, 38, 39, 42, 44, 46
LOW_TOM, MID_TOM, HIGH_TOM, CRASH, RIDE, RIDE_BELL, TAMBOURINE, SHAKER = 41, 47, 50, 49, 51, 53, 54, 70
ELECTRIC_SNARE = 40
# Drum patterns: a bar of sixteen steps a drum.
DRUM_PATTERNS: dict[str, dict[int, str]] = {
    "pop": {KICK: "X.......x.x.....", SNARE: "....X.......X...", HAT: "X.x.x.x.X.x.x.x."},
    "pop syncopated": {KICK: "X..x..x...x.....", SNARE: "....X.......X..o", HAT: "XoxoXoxoXoxoXoxo"},
    "pop dance": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        HAT: "..X...X...X...X.",
        SHAKER: "xoxoxoxoxoxoxoxo",
    },
    "pop ballad": {
        KICK: "X.........x.....",
        STICK: "....X.......X...",
        HAT: "x...x...x...x...",
        SHAKER: "o.o.o.o.o.o.o.o.",
    },
    "pop rock": {
        KICK: "X.....x.X.......",
        SNARE: "....X.......X...",
        OPEN_HAT: "x.......x.......",
        TAMBOURINE: "..x...x...x...x.",
    },
    "soft pop": {KICK: "x.......x.......", SNARE: "....o.......o...", HAT: "o.o.o.o.o.o.o.o."},
    "house": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        OPEN_HAT: "..X...X...X...X.",
        HAT: "x.o.x.o.x.o.x.o.",
    },
    "big room": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        SNARE: "....x.......x...",
        OPEN_HAT: "..X...X...X...X.",
    },
    "soft house": {
        KICK: "X...X...X...X...",
        STICK: "....x.......x...",
        HAT: "..x...x...x...x.",
        SHAKER: "o.o.o.o.o.o.o.o.",
    },
    "kick alone": {KICK: "X...X...X...X...", HAT: "..o...o...o...o."},
    "electro": {KICK: "X...X...X...X...", SNARE: "....X.......X...", HAT: "x.x.x.x.x.x.x.x."},
    "trance": {
        KICK: "X...X...X...X...",
        SNARE: "....X.......X...",
        OPEN_HAT: "..X...X...X...X.",
        HAT: "xxoxxxoxxxoxxxox",
    },
    "techno": {KICK: "X...X...X...X...", HAT: "..X...X...X...X.", RIDE: "x.x.x.x.x.x.x.x.", CLAP: "............X..x"},
    "rock": {KICK: "X.......X.x.....", SNARE: "....X.......X...", HAT: "X.x.X.x.X.x.X.x."},
    "hard rock": {
        KICK: "X.x.....X.x.....",
        SNARE: "....X.......X...",
        OPEN_HAT: "X...X...X...X...",
        CRASH: "x...............",
    },
    "rock ride": {KICK: "X..x....X..x....", SNARE: "....X.......X...", RIDE: "X.x.X.x.X.x.X.x."},
    "half-time rock": {KICK: "X.....x...x.....", SNARE: "........X.......", OPEN_HAT: "X...X...X...X..."},
    "boom bap": {KICK: "X......x..X.....", SNARE: "....X.......X...", HAT: "X.x.x.x.X.x.x.x."},
    "lo-fi": {KICK: "X......x.xX.....", STICK: "....X.......X...", HAT: "x.xox.x.x.xox.x.", SHAKER: "..o...o...o...o."},
    "trap": {KICK: "X.....x...X..x..", CLAP: "........X.......", HAT: "XxxxXxxxXxxxXxxx"},
    "laid-back": {KICK: "X..x......X.....", SNARE: "....X..o.o..X..o", HAT: "x.x.x.x.x.x.x.x."},
    "punk": {KICK: "X...X...X...X...", SNARE: "..X...X...X...X.", HAT: "X.x.X.x.X.x.X.x."},
    "d-beat": {KICK: "X..x..x.X..x..x.", SNARE: "..X...X...X...X.", CRASH: "X.......X......."},
    "skate punk": {KICK: "X.x...x.X.x...x.", SNARE: "..X...X...X...X.", RIDE_BELL: "X.X.X.X.X.X.X.X."},
    "pogo": {KICK: "X...X...X.x.X...", SNARE: "..X...X...X...X.", OPEN_HAT: "X.X.X.X.X.X.X.X."},
    "street punk": {KICK: "X.....x.X.x.....", SNARE: "....X.......X...", OPEN_HAT: "x.x.x.x.x.x.x.x."},
    "garage punk": {KICK: "X...X...X...X...", SNARE: "..x...x...x...x.", HAT: "x.x.x.x.x.x.x.x."},
    "tom punk": {KICK: "X...X...X...X...", LOW_TOM: "x.x...x.x.x...x.", SNARE: "....X.......X..."},
    # Jazz is written in swung eighths: the off-beat eighth is played late.
    "swing": {RIDE: "X...x.x.X...x.x.", PEDAL_HAT: "....X.......X...", KICK: "o...o...o...o..."},
    "swing comping": {
        RIDE: "X...x.x.X...x.x.",
        PEDAL_HAT: "....X.......X...",
        SNARE: "......o.......o.",
        KICK: "o.....o.o.......",
    },
    "brushes": {RIDE: "x...x.x.x...x.x.", SNARE: "o.o.x.o.o.o.x.o.", PEDAL_HAT: "....x.......x..."},
    "bossa nova": {
        STICK: "X.....X.....X...",
        HAT: "xoxoxoxoxoxoxoxo",
        KICK: "x.....x.x.....x.",
        SHAKER: "x.x.x.x.x.x.x.x.",
    },
}
# Velocity of a normal hit.
DRUM_LEVEL = {
    KICK: 112,
    SNARE: 108,
    ELECTRIC_SNARE: 106,
    CLAP: 104,
    STICK: 94,
    HAT: 88,
    PEDAL_HAT: 82,
    OPEN_HAT: 84,
    LOW_TOM: 102,
    CRASH: 92,
    RIDE: 88,
    RIDE_BELL: 92,
    TAMBOURINE: 72,
    SHAKER: 64,
}

# MIDI volume of each role, and how far a seed moves each from it, in dB: what one mixing desk sounds like is not
# what makes a genre.
_MIX = {"lead": 112, "chords": 92, "fill": 84, "pad": 80, "bass": 108, "drums": 112}
_MIX_SPREAD = {"lead": (-6, 2), "chords": (-3, 6), "fill": (-4, 4), "pad": (-3, 9), "bass": (-9, 1), "drums": (-12, 1)}


@dataclass(frozen=True)
class Style:
    """One way to play a genre: what a seed chooses from. Programs are General MIDI, tempi in beats a minute."""

    name: str
    tempo: tuple[int, int]
    leads: tuple[int, ...]
    chords: tuple[tuple[int, str], ...]
    basses: tuple[tuple[int, str], ...]
    drums: tuple[str, ...] = ()
    pads: tuple[int, ...] = ()
    fills: tuple[tuple[int, str], ...] = ()
    drum_words: str = ""
    moods: tuple[str, ...] = ()
    production: tuple[str, ...] = ()
    swing: float = 0.0
    drum_kit: int = 0
    melody: str = "full"
    loose: float = 0.006
    sevenths: bool = False
    lead_range: tuple[int, int] = (60, 84)
    names: tuple[str, ...] = ()


STYLES: dict[str, tuple[Style, ...]] = {
    "Pop": (
        Style(
            "pop",
            (96, 124),
            (80, 11, 73, 82, 1),
            ((0, "push"), (0, "quarters"), (4, "push"), (1, "eighths")),
            ((33, "pop"), (33, "eighths"), (39, "pop")),
            ("pop", "pop syncopated", "pop rock"),
            (48, 89),
            ((25, "strum"), (27, "arpeggio"), (9, "arpeggio")),
            "steady pop drum beat",
            ("cheerful", "upbeat", "bright", "feel-good", "happy", "sunny"),
            ("polished", "radio-ready", "clean", "catchy"),
            names=("pop song", "pop tune", "pop track", "catchy pop song"),
        ),
        Style(
            "dance-pop",
            (112, 126),
            (81, 80, 62),
            ((0, "push"), (90, "push"), (4, "quarters")),
            ((38, "eighths"), (39, "pop")),
            ("pop dance",),
            (89, 50),
            ((28, "arpeggio"), (12, "arpeggio")),
            "claps and a steady dance-pop beat",
            ("upbeat", "bubbly", "lively", "cheerful"),
            ("glossy", "modern", "catchy"),
            loose=0.003,
            drum_kit=24,
            names=("dance-pop song", "synth-pop song", "modern pop song"),
        ),
        Style(
            "acoustic pop",
            (84, 108),
            (73, 65, 11, 0),
            ((25, "strum"), (25, "strum"), (24, "arpeggio")),
            ((33, "pop"), (35, "whole")),
            ("pop ballad", "pop", "pop rock"),
            (48,),
            ((0, "quarters"), (9, "arpeggio")),
            "light acoustic pop drums",
            ("warm", "gentle", "sunny", "heartfelt"),
            ("organic", "intimate", "acoustic"),
            names=("acoustic pop song", "folk pop song", "pop song"),
        ),
        Style(
            "pop ballad",
            (68, 84),
            (40, 73, 65, 0),
            ((0, "arpeggio"), (0, "quarters"), (5, "halves")),
            ((33, "whole"), (35, "whole")),
            ("pop ballad", "pop"),
            (48, 49),
            ((25, "arpeggio"),),
            "soft pop drums",
            ("romantic", "emotional", "tender", "sentimental"),
            ("lush", "polished", "wide"),
            names=("pop ballad", "slow pop song", "emotional pop song"),
        ),
        Style(
            "piano pop",
            (72, 116),
            (73, 11, 65, 80, 0, 40),
            ((0, "quarters"), (0, "arpeggio"), (0, "halves"), (0, "push"), (2, "quarters")),
            ((33, "pop"), (33, "whole"), (35, "pop"), (33, "eighths")),
            ("pop", "pop ballad", "soft pop"),
            (48, 49, 48, 50),
            ((48, "sustained"), (25, "arpeggio"), (89, "sustained")),
            "soft steady pop drums",
            ("cheerful", "warm", "hopeful", "gentle", "bright"),
            ("soft", "round", "polished"),
            names=("piano pop song", "soft pop song", "pop tune with piano"),
        ),
        Style(
            "guitar pop",
            (104, 138),
            (27, 80, 73, 11),
            ((27, "strum"), (27, "eighths"), (25, "strum")),
            ((33, "eighths"), (34, "pop")),
            ("pop", "pop rock", "pop syncopated"),
            (48, 89),
            ((0, "push"), (16, "sustained"), (28, "arpeggio")),
            "bouncy guitar-pop drums",
            ("jangly", "sunny", "bright", "carefree"),
            ("clean", "catchy", "organic"),
            names=("guitar pop song", "indie pop song", "pop tune"),
        ),
        Style(
            "synth-pop",
            (98, 122),
            (80, 81, 73, 82),
            ((90, "eighths"), (50, "halves"), (5, "push")),
            ((39, "eighths"), (38, "pop")),
            ("pop", "pop dance"),
            (89, 50, 95),
            ((80, "arpeggio"), (11, "arpeggio")),
            "crisp synth-pop drums",
            ("nostalgic", "bright", "dreamy", "upbeat"),
            ("retro", "glossy", "polished"),
            loose=0.003,
            names=("synth-pop tune", "eighties pop song", "pop track"),
        ),
    ),
    "EDM": (
        Style(
            "house",
            (120, 128),
            (81, 80, 90),
            ((0, "house stabs"), (90, "house stabs"), (62, "house stabs")),
            ((38, "off-beat"), (39, "off-beat")),
            ("house",),
            (95, 89, 50),
            ((80, "arpeggio16"),),
            "four-on-the-floor kick, claps and open hats",
            ("energetic", "uplifting", "euphoric", "groovy"),
            ("club-ready", "punchy", "bright"),
            loose=0.0,
            drum_kit=25,
            names=("house track", "EDM track", "electronic dance music track"),
        ),
        Style(
            "big room",
            (126, 132),
            (81, 87, 62),
            ((90, "pumped"), (81, "pumped")),
            ((38, "off-beat"), (38, "sixteenths")),
            ("big room",),
            (89, 95),
            ((81, "arpeggio16"),),
            "huge four-on-the-floor kick",
            ("massive", "energetic", "festival", "powerful"),
            ("huge", "loud", "sidechained"),
            loose=0.0,
            drum_kit=24,
            names=("EDM anthem", "big room EDM track", "festival EDM track"),
        ),
        Style(
            "trance",
            (130, 138),
            (81, 80),
            ((90, "pumped"), (50, "pumped")),
            ((38, "off-beat"), (39, "rolling")),
            ("trance",),
            (95, 50, 89),
            ((81, "arpeggio16"), (80, "arpeggio16")),
            "driving trance beat",
            ("euphoric", "hypnotic", "uplifting", "dreamy"),
            ("wide", "soaring", "shimmering"),
            loose=0.0,
            drum_kit=24,
            names=("trance track", "electronic dance track", "EDM trance track"),
        ),
        Style(
            "techno",
            (126, 134),
            (80, 87),
            ((90, "house stabs"), (81, "pumped")),
            ((38, "rolling"), (39, "sixteenths")),
            ("techno", "house"),
            (94, 95),
            ((80, "arpeggio16"), (81, "arpeggio16")),
            "pounding techno drums",
            ("dark", "driving", "hypnotic", "relentless"),
            ("mechanical", "electronic", "raw"),
            melody="sparse",
            loose=0.0,
            drum_kit=25,
            names=("techno track", "electronic dance track", "electro club track"),
        ),
        Style(
            "melodic EDM",
            (96, 130),
            (81, 81, 80, 90),
            ((89, "sustained"), (90, "pumped"), (50, "sustained"), (95, "sustained")),
            ((38, "off-beat"), (39, "off-beat")),
            ("kick alone", "electro", "soft house"),
            (89, 95, 50, 88),
            ((80, "arpeggio"), (90, "house stabs")),
            "plain four-on-the-floor kick",
            ("energetic", "uplifting", "bright", "dreamy"),
            ("wide", "clean", "spacious"),
            loose=0.002,
            names=("melodic EDM track", "EDM track", "electronic dance tune"),
        ),
        Style(
            "deep house",
            (112, 124),
            (80, 81, 11, 87),
            ((4, "house stabs"), (5, "pumped"), (89, "sustained")),
            ((38, "off-beat"), (39, "rolling")),
            ("soft house", "house"),
            (89, 95, 88),
            ((90, "house stabs"), (80, "arpeggio16")),
            "soft four-on-the-floor kick and rim clicks",
            ("hypnotic", "smooth", "groovy", "warm"),
            ("deep", "spacious", "club-ready"),
            loose=0.003,
            drum_kit=25,
            names=("deep house track", "electronic dance track", "mellow EDM track"),
        ),
    ),
    "Rock": (
        Style(
            "rock",
            (108, 136),
            (29, 27, 30),
            ((30, "power chords"), (29, "power chords")),
            ((34, "eighths"), (33, "eighths")),
            ("rock", "rock ride"),
            (),
            ((30, "power sustained"), (18, "sustained")),
            "hard rock drum beat",
            ("driving", "energetic", "powerful", "confident"),
            ("gritty", "loud", "live-sounding"),
            names=("rock song", "rock track", "guitar rock song"),
        ),
        Style(
            "hard rock",
            (100, 128),
            (30, 29),
            ((30, "power sustained"), (30, "gallop")),
            ((34, "eighths"),),
            ("hard rock", "half-time rock"),
            (),
            ((29, "power chords"),),
            "heavy rock drums and crashing cymbals",
            ("heavy", "aggressive", "anthemic", "powerful"),
            ("distorted", "heavy", "thick"),
            names=("hard rock song", "heavy rock track", "rock anthem"),
        ),
        Style(
            "classic rock",
            (104, 128),
            (29, 27),
            ((29, "power chords"), (27, "strum")),
            ((33, "pop"), (34, "eighths")),
            ("rock", "rock ride"),
            (),
            ((18, "sustained"), (17, "sustained")),
            "steady rock beat",
            ("upbeat", "rebellious", "nostalgic", "rough"),
            ("vintage", "warm", "raw"),
            names=("classic rock song", "blues rock song", "rock tune"),
        ),
        Style(
            "rock ballad",
            (72, 92),
            (29, 30),
            ((27, "arpeggio"), (25, "strum"), (30, "power sustained")),
            ((33, "whole"), (34, "eighths")),
            ("half-time rock", "rock"),
            (49,),
            ((30, "power sustained"), (18, "sustained")),
            "slow rock drums",
            ("emotional", "epic", "melancholic", "soaring"),
            ("wide", "stadium-sized", "reverberant"),
            names=("rock ballad", "slow rock song", "rock power ballad"),
        ),
    ),
    "Hip-hop": (
        Style(
            "boom bap",
            (84, 95),
            (11, 4, 59, 65),
            ((4, "halves"), (4, "laid-back"), (0, "laid-back")),
            ((38, "kick"), (33, "kick"), (32, "kick")),
            ("boom bap", "laid-back"),
            (),
            ((48, "sustained"), (45, "arpeggio")),
            "boom-bap drums",
            ("laid-back", "smooth", "head-nodding", "chilled"),
            ("dusty", "vinyl-flavoured", "old-school"),
            swing=0.22,
            melody="sparse",
            sevenths=True,
            loose=0.010,
            names=("hip-hop beat", "boom bap hip hop beat", "old-school rap beat"),
        ),
        Style(
            "lo-fi",
            (70, 86),
            (11, 73, 4, 24),
            ((4, "halves"), (5, "laid-back"), (0, "laid-back"), (26, "laid-back")),
            ((33, "whole"), (38, "kick"), (32, "kick")),
            ("lo-fi",),
            (89,),
            ((11, "arpeggio"),),
            "soft dusty lo-fi drums",
            ("mellow", "relaxing", "chilled", "nostalgic"),
            ("lo-fi", "warm", "hazy"),
            swing=0.24,
            melody="sparse",
            sevenths=True,
            loose=0.012,
            names=("lo-fi hip-hop beat", "chillhop beat", "lofi hip hop track"),
        ),
        Style(
            "trap",
            (68, 80),
            (9, 8, 80, 11, 73),
            ((0, "halves"), (8, "arpeggio"), (50, "sustained")),
            ((38, "808"), (39, "808")),
            ("trap",),
            (89, 50, 52),
            ((45, "arpeggio"),),
            "trap drums with rolling hi-hats",
            ("dark", "moody", "hard", "menacing"),
            ("deep", "modern", "bass-heavy"),
            melody="sparse",
            loose=0.002,
            drum_kit=25,
            names=("trap beat", "hip-hop trap beat", "modern rap instrumental"),
        ),
    ),
    "Punk": (
        Style(
            "punk",
            (164, 190),
            (30, 29),
            ((30, "power eighths"),),
            ((34, "eighths"), (33, "eighths")),
            ("punk", "pogo"),
            (),
            ((29, "power eighths"),),
            "frantic punk drum beat",
            ("fast", "aggressive", "raw", "rebellious"),
            ("raw", "loud", "garage"),
            names=("punk song", "punk rock song", "punk track"),
        ),
        Style(
            "hardcore punk",
            (178, 200),
            (30,),
            ((30, "power eighths"), (30, "power gallop")),
            ((34, "eighths"),),
            ("d-beat",),
            (),
            ((30, "power sustained"),),
            "relentless d-beat drums",
            ("furious", "aggressive", "angry", "intense"),
            ("noisy", "raw", "brutal"),
            names=("hardcore punk song", "thrashing punk track", "d-beat punk song"),
        ),
        Style(
            "pop punk",
            (160, 182),
            (29, 27, 30),
            ((30, "power eighths"), (29, "power eighths")),
            ((34, "eighths"),),
            ("skate punk", "punk"),
            (),
            ((27, "arpeggio"), (30, "power sustained")),
            "fast skate punk drums",
            ("energetic", "catchy", "youthful", "upbeat"),
            ("bright", "punchy", "loud"),
            names=("pop punk song", "skate punk song", "upbeat punk rock song"),
        ),
        Style(
            "street punk",
            (132, 176),
            (30, 29),
            ((30, "power eighths"), (29, "power eighths")),
            ((34, "eighths"), (33, "eighths")),
            ("street punk", "tom punk", "pogo"),
            (),
            ((30, "power sustained"), (29, "power eighths")),
            "stomping street punk drums",
            ("defiant", "rowdy", "rebellious", "aggressive"),
            ("raw", "shouted-along", "loud"),
            names=("street punk song", "old-school punk song", "punk anthem"),
        ),
        Style(
            "garage punk",
            (168, 212),
            (30, 29),
            ((30, "power eighths"), (30, "power gallop")),
            ((34, "eighths"), (33, "eighths")),
            ("garage punk", "punk"),
            (),
            ((30, "power eighths"), (29, "power sustained")),
            "frantic garage punk drums",
            ("frantic", "fast", "wild", "aggressive"),
            ("lo-fi", "raw", "muffled"),
            loose=0.010,
            names=("garage punk song", "fast punk song", "noisy punk track"),
        ),
    ),
    "Jazz": (
        Style(
            "swing jazz",
            (120, 180),
            (66, 56, 65, 11),
            ((0, "charleston"), (26, "freddie green"), (0, "swing comping")),
            ((32, "walking"),),
            ("swing", "swing comping"),
            (),
            ((26, "freddie green"), (61, "swing comping")),
            "swinging ride cymbal",
            ("swinging", "lively", "playful", "upbeat"),
            ("live", "club", "warm"),
            swing=0.33,
            sevenths=True,
            loose=0.012,
            names=("jazz tune", "swing jazz piece", "jazz track"),
        ),
        Style(
            "smooth jazz",
            (88, 116),
            (66, 64, 59, 65, 0),
            ((0, "charleston"), (4, "halves"), (0, "swing comping")),
            ((32, "walking"),),
            ("brushes", "swing"),
            (),
            ((11, "halves"),),
            "brushed drums and ride cymbal",
            ("smooth", "relaxed", "sophisticated", "romantic"),
            ("intimate", "late-night", "smoky"),
            swing=0.33,
            sevenths=True,
            loose=0.014,
            names=("smooth jazz piece", "jazz ballad", "lounge jazz tune"),
        ),
        Style(
            "bossa nova",
            (112, 138),
            (73, 66, 24, 0),
            ((24, "bossa"), (24, "bossa")),
            ((32, "bossa"),),
            ("bossa nova",),
            (),
            ((0, "halves"), (11, "halves")),
            "bossa nova drums with rim clicks",
            ("breezy", "relaxed", "sunny", "elegant"),
            ("soft", "acoustic", "intimate"),
            sevenths=True,
            loose=0.010,
            names=("bossa nova jazz tune", "latin jazz piece", "jazz bossa nova"),
        ),
        Style(
            "piano trio",
            (126, 190),
            (0, 11, 26),
            ((0, "swing comping"), (0, "charleston")),
            ((32, "walking"),),
            ("swing", "swing comping", "brushes"),
            (),
            (),
            "swinging jazz drums",
            ("swinging", "cool", "playful", "sophisticated"),
            ("live", "acoustic", "warm"),
            swing=0.33,
            sevenths=True,
            loose=0.014,
            names=("jazz trio piece", "bebop jazz tune", "cool jazz track"),
        ),
    ),
    "Classical": (
        Style(
            "chamber",
            (76, 108),
            (40, 73, 68),
            ((48, "sustained"), (49, "sustained")),
            ((42, "cello"),),
            (),
            (),
            ((46, "arpeggio"), (41, "halves"), (45, "quarters")),
            "",
            ("gentle", "elegant", "graceful", "warm"),
            ("acoustic", "concert-hall", "delicate"),
            loose=0.016,
            lead_range=(64, 91),
            names=("classical chamber piece", "classical string piece", "chamber music piece"),
        ),
        Style(
            "piano solo",
            (72, 132),
            (0,),
            ((0, "alberti"), (0, "arpeggio")),
            ((0, "left hand"),),
            (),
            (),
            (),
            "",
            ("expressive", "delicate", "romantic", "reflective"),
            ("solo", "intimate", "virtuosic"),
            loose=0.014,
            lead_range=(67, 91),
            names=("classical piano piece", "classical piano sonata", "romantic classical piano solo"),
        ),
        Style(
            "orchestral",
            (80, 126),
            (40, 60, 68, 73, 56),
            ((48, "sustained"), (48, "halves"), (49, "tremolo")),
            ((43, "cello"), (42, "cello")),
            (),
            (60,),
            ((46, "arpeggio"), (45, "eighths"), (71, "arpeggio")),
            "",
            ("majestic", "epic", "dramatic", "stately"),
            ("orchestral", "grand", "concert-hall"),
            loose=0.014,
            lead_range=(62, 88),
            names=("orchestral classical piece", "classical symphony", "classical orchestral work"),
        ),
        Style(
            "woodwinds",
            (84, 120),
            (73, 68, 71),
            ((71, "alberti"), (48, "sustained"), (45, "quarters")),
            ((70, "cello"), (42, "cello")),
            (),
            (),
            ((46, "arpeggio"), (70, "quarters")),
            "",
            ("pastoral", "light", "playful", "peaceful"),
            ("acoustic", "airy", "delicate"),
            loose=0.014,
            lead_range=(67, 91),
            names=("classical woodwind piece", "classical serenade", "classical chamber work for winds"),
        ),
        Style(
            "baroque",
            (88, 120),
            (40, 6, 68),
            ((6, "alberti"), (6, "quarters"), (6, "arpeggio16")),
            ((42, "walking"), (70, "cello")),
            (),
            (48,),
            ((48, "sustained"),),
            "",
            ("ornate", "lively", "stately", "bright"),
            ("period-instrument", "acoustic", "crisp"),
            loose=0.010,
            lead_range=(64, 88),
            names=("baroque classical piece", "baroque concerto", "classical harpsichord piece"),
        ),
    ),
}


@dataclass(frozen=True)
class Facts:
    """What was arranged, in words and numbers; `instruments` starts with the lead, `tempo` is in beats a minute."""

    song: str
    genre: str
    style: str
    seed: int
    tempo: float
    tempo_word: str
    key: str
    mood: str
    production: str
    lead: str
    accompaniment: tuple[str, ...]
    bass: str
    drums: str
    chord_pattern: str = ""
    bass_pattern: str = ""
    names: tuple[str, ...] = field(repr=False, default=())

    @property
    def instruments(self) -> tuple[str, ...]:
        """Words for all instruments, lead first, drums last, none twice."""
        words = [self.lead, *self.accompaniment, self.bass, *(["drums"] if self.drums else [])]
        return tuple(dict.fromkeys(words))


@dataclass(frozen=True)
class Arrangement:
    """A score ready to render: notes in seconds, and the facts that captions are written from."""

    midi: "pretty_midi.PrettyMIDI"
    facts: Facts


def arrange(song: Song, genre: str, seed: int, seconds: float | None = None) -> Arrangement:
    """Arrange a song in a genre.

    Parameters
    ----------
    song : Song
        Melody and chords.
    genre : str
        One of `GENRES`.
    seed : int
        Chooses style, instruments, tempo, transposition, density and the players' deviations.
    seconds : float, optional
        Arrange only about this much, from a seeded bar where the melody is active; the whole song by default.

    Returns
    -------
    Arrangement
        Notes from time 0, in seconds, one track an instrument.

    Raises
    ------
    BlendbenchError
        If the genre is unknown or the song is empty.
    """
    if genre not in STYLES:
        raise BlendbenchError(f"genre {genre!r} is unknown; choose one of {', '.join(GENRES)}")
    if not song.melody or not song.chords:
        raise BlendbenchError(f"song {song.id}: holds no melody or no chords; choose another song")
    return _Arranger(song, genre, seed, seconds).arrangement()


class _Arranger:
    """The state of one arrangement while it is written: the choices of the seed and the tracks so far."""

    def __init__(self, song: Song, genre: str, seed: int, seconds: float | None) -> None:
        import pretty_midi

        self.pretty_midi = pretty_midi
        self.rng = rng = random.Random(f"{song.id}/{genre}/{seed}")
        self.song, self.genre, self.seed = song, genre, seed
        self.style = style = rng.choice(STYLES[genre])
        self.tempo = rng.uniform(*style.tempo)
        # A slow song in a fast genre keeps its melodic pace by taking half or twice as many beats.
        pace = round(math.log2(self.tempo / song.tempo) - 0.15)
        self.stretch = 2.0 ** min(max(pace, -1), 1)
        self.bar = float(song.beats_per_bar)
        self.transpose = rng.randint(-5, 6)
        self.start_bar, self.bars = self._region(seconds)
        self.chords = self._cut_chords()
        self.melody = self._cut_melody()
        self.tracks: dict[tuple[int, bool, str], pretty_midi.Instrument] = {}
        self.lead = rng.choice(style.leads)
        self.comp = rng.choice(style.chords)
        self.bass = rng.choice(style.basses)
        self.pad = rng.choice(style.pads) if style.pads and rng.random() < 0.7 else None
        choices = [f for f in style.fills if f[0] not in (self.lead, self.comp[0])]
        self.fill = rng.choice(choices) if choices and rng.random() < 0.65 else None
        self.drums = rng.choice(style.drums) if style.drums else ""
        self.light = [rng.random() < 0.15 for _ in range(self.bars // 4 + 1)]
        desk = random.Random(f"mix/{song.id}/{genre}/{seed}")
        # General MIDI's volume v is a gain of 40 log10(v / 127) dB. Who plays without amplifiers has no desk.
        moved = {role: 0.0 if genre in ("Classical", "Jazz") else desk.uniform(*_MIX_SPREAD[role]) for role in _MIX}
        self.volume = {role: min(round(level * 10 ** (moved[role] / 40)), 127) for role, level in _MIX.items()}

    # What part of the song

    def _region(self, seconds: float | None) -> tuple[int, int]:
        bars = max(round(self.song.bars * self.stretch), 1)
        if seconds is None:
            return 0, bars
        wanted = min(math.ceil(seconds * self.tempo / 60.0 / self.bar), bars)
        active = [0.0] * bars
        for note in self.song.melody:
            active[min(int(note.start * self.stretch / self.bar), bars - 1)] += 1
        # Four-bar steps keep phrases whole.
        starts = list(range(0, bars - wanted + 1, 4)) or [0]
        covered = {s: sum(a > 0 for a in active[s : s + wanted]) for s in starts}
        best = max(covered.values())
        return self.rng.choice([s for s in starts if covered[s] >= 0.85 * best]), wanted

    def _cut_chords(self) -> list[Chord]:
        offset, end = self.start_bar * self.bar, self.bars * self.bar
        chords: list[Chord] = []
        last = self.song.chords[0]
        cursor = 0.0
        for c in self.song.chords:
            start, stop = c.start * self.stretch - offset, c.end * self.stretch - offset
            if stop <= 1e-6:
                last = c
                continue
            start, stop = max(start, cursor), min(stop, end)
            if start >= end or stop - start < 0.24:
                continue
            # A bar without a chord holds the one before it.
            if start > cursor:
                chords.append(self._moved(last, cursor, start - cursor))
            chords.append(self._moved(c, start, stop - start))
            cursor, last = stop, c
        if cursor < end:
            chords.append(self._moved(last, cursor, end - cursor))
        return chords

    def _moved(self, c: Chord, start: float, duration: float) -> Chord:
        quality = c.quality
        if self.style.sevenths and quality in ("maj", "min"):
            dominant = (c.root - self.song.tonic) % 12 == 7 and quality == "maj"
            quality = "7" if dominant else {"maj": "maj7", "min": "min7"}[quality]
        return Chord(start, duration, (c.root + self.transpose) % 12, quality, (c.bass + self.transpose) % 12)

    def _cut_melody(self) -> list[Note]:
        offset, end = self.start_bar * self.bar, self.bars * self.bar
        pitches = sorted(n.pitch for n in self.song.melody)
        low, high = self.style.lead_range
        centre = pitches[len(pitches) // 2] + self.transpose
        octave = 12 * round(((low + high) / 2 - centre) / 12)
        notes = []
        for n in self.song.melody:
            start = n.start * self.stretch - offset
            if not 0 <= start < end:
                continue
            duration = min(n.duration * self.stretch, end - start)
            pitch = n.pitch + self.transpose + octave
            notes.append(Note(start, duration, pitch + 12 * (pitch < low - 5) - 12 * (pitch > high + 5), n.velocity))
        if self.style.melody == "sparse":
            notes = [n for n in notes if n.duration >= 0.7 or (n.start % 1.0 == 0.0 and self.rng.random() < 0.7)]
        return notes

    # Writing notes

    def track(self, program: int, role: str, drum: bool = False) -> "pretty_midi.Instrument":
        """Track of a role, made when first asked for."""
        key = (program, drum, role)
        if key not in self.tracks:
            self.tracks[key] = self.pretty_midi.Instrument(program, is_drum=drum, name=role)
            self.tracks[key].control_changes.append(self.pretty_midi.ControlChange(7, self.volume[role], 0.0))
        return self.tracks[key]

    def swung(self, beat: float) -> float:
        """Move off-beats late: by `swing` beats at the eighth (jazz) or a half of that at the sixteenth (hip-hop)."""
        if not self.style.swing:
            return beat
        if self.genre == "Jazz":
            whole, part = divmod(beat, 1.0)
            bend = self.style.swing / 2
            part = part * (1 + 2 * bend) if part < 0.5 else 0.5 + bend + (part - 0.5) * (1 - 2 * bend)
            return whole + part
        whole, part = divmod(beat, 0.5)
        bend = self.style.swing / 4
        part = part * (1 + 4 * bend) if part < 0.25 else 0.25 + bend + (part - 0.25) * (1 - 4 * bend)
        return whole * 0.5 + part

    def add(self, track: "pretty_midi.Instrument", pitch: int, start: float, duration: float, velocity: float) -> None:
        """Write one note given in beats, with a player's deviation."""
        loose = self.style.loose
        begin = self.swung(start) * 60.0 / self.tempo
        stop = self.swung(start + duration) * 60.0 / self.tempo
        if loose:
            begin = max(begin + self.rng.gauss(0.0, loose), 0.0)
        level = int(min(max(velocity + self.rng.gauss(0.0, 5.0 if loose else 2.0), 20), 127))
        if 0 <= pitch <= 127 and stop > begin + 0.015:
            track.notes.append(self.pretty_midi.Note(level, pitch, begin, stop))

    def arrangement(self) -> Arrangement:
        """Write all parts."""
        self.write_melody()
        self.write_chords(self.comp, "chords", 74)
        if self.fill:
            self.write_chords(self.fill, "fill", 60)
        if self.pad is not None:
            self.write_chords((self.pad, "pumped" if self.genre == "EDM" else "sustained"), "pad", 58)
        self.write_bass()
        if self.drums:
            self.write_drums()
        midi = self.pretty_midi.PrettyMIDI(initial_tempo=self.tempo, resolution=480)
        for instrument in self.tracks.values():
            instrument.notes.sort(key=lambda n: (n.start, n.pitch))
            if instrument.notes:
                midi.instruments.append(instrument)
        return Arrangement(midi, self.facts())

    def facts(self) -> Facts:
        """Describe the choices."""
        words = [PROGRAM_WORDS[self.comp[0]]]
        words += [PROGRAM_WORDS[self.fill[0]]] if self.fill else []
        words += [PROGRAM_WORDS[self.pad]] if self.pad is not None else []
        slow, fast = 84, 124
        tempo_word = "slow" if self.tempo < slow else "fast" if self.tempo >= fast else "mid-tempo"
        bass = PROGRAM_WORDS[self.bass[0]]
        if self.bass[1] == "walking" and self.genre == "Jazz":
            bass = f"walking {bass}"
        if self.bass[1] == "808":
            bass = "deep 808 bass"
        return Facts(
            song=self.song.id,
            genre=self.genre,
            style=self.style.name,
            seed=self.seed,
            tempo=round(self.tempo, 1),
            tempo_word=tempo_word,
            key=f"{PITCH_NAMES[(self.song.tonic + self.transpose) % 12]} {self.song.mode}",
            mood=self.rng.choice(self.style.moods),
            production=self.rng.choice(self.style.production),
            lead=PROGRAM_WORDS[self.lead],
            accompaniment=tuple(dict.fromkeys(words)),
            bass=bass,
            drums=self.style.drum_words,
            chord_pattern=self.comp[1],
            bass_pattern=self.bass[1],
            names=self.style.names,
        )

    # Parts

    def write_melody(self) -> None:
        """The tune, doubled in some styles, answered by a riff of chord tones where it rests."""
        track = self.track(self.lead, "lead")
        double = self.rng.random()
        for n in self.melody:
            self.add(track, n.pitch, n.start, max(n.duration, 0.22) * 0.97, 0.35 * n.velocity + 66)
            if double < 0.25 and self.genre in ("EDM", "Rock", "Punk"):
                self.add(track, n.pitch - 12, n.start, n.duration * 0.97, 0.35 * n.velocity + 54)
            elif double < 0.4 and self.genre == "Classical":
                self.add(track, self.below(n), n.start, n.duration * 0.97, 0.35 * n.velocity + 48)
        sung = {int(b) for n in self.melody for b in (n.start // self.bar, (n.start + n.duration - 0.3) // self.bar)}
        rhythm = self.rng.choice((("x..x..x.", 0.5), ("x.x.x.x.", 0.5), ("xxx.xxx.", 0.5), ("x...x...", 0.5)))
        order = [self.rng.randrange(4) for _ in range(8)]
        for bar in range(self.bars):
            if bar in sung or (self.style.melody == "sparse" and bar % 2):
                continue
            for i in range(int(self.bar * 2)):
                if rhythm[0][i % 8] == "x":
                    beat = bar * self.bar + i * rhythm[1]
                    tones = self.voicing(self.chord_at(beat), sum(self.style.lead_range) // 2 - 2)
                    self.add(track, tones[order[i % 8] % len(tones)], beat, 0.48, 86)

    def below(self, n: Note) -> int:
        """The chord tone at least three semitones under a melody note."""
        classes = self.chord_at(n.start).pitch_classes
        return next(p for p in range(n.pitch - 3, n.pitch - 16, -1) if p % 12 in classes)

    def chord_at(self, beat: float) -> Chord:
        """The chord that sounds at a beat."""
        return next((c for c in self.chords if c.start <= beat + 1e-6 < c.end), self.chords[-1])

    def voicing(self, chord: Chord, centre: int) -> list[int]:
        """The chord's tones within an octave around a pitch, lowest first."""
        classes = list(chord.pitch_classes)
        if self.genre == "Jazz" and chord.quality in ("maj7", "min7", "7"):
            # The bass has the root; the ninth takes its place.
            classes[0] = (chord.root + 2) % 12
        return sorted(centre - 6 + (p - centre + 6) % 12 for p in classes)

    def write_chords(self, part: tuple[int, str], role: str, velocity: int) -> None:
        """Accompaniment in one of the named patterns."""
        program, pattern = part
        track = self.track(program, role)
        guitar = 24 <= program <= 30
        centre = 58 if guitar or program in (70, 61) else 72 if program in (8, 9, 11, 12, 46, 81, 80) else 63
        if pattern in ("sustained", "power sustained", "tremolo"):
            velocity -= 4
        for chord in self.chords:
            tones = self.voicing(chord, centre)
            if pattern.startswith("power") or pattern == "gallop":
                low = 40 + (chord.root - 40) % 12
                tones = [low, low + 7, low + 12]
            elif guitar and pattern == "strum":
                tones = sorted({*tones, tones[0] + 12, tones[-1] - 12})
            self._play(track, chord, tones, pattern, velocity)

    def _play(
        self, track: "pretty_midi.Instrument", chord: Chord, tones: list[int], pattern: str, velocity: int
    ) -> None:
        start, end = chord.start, chord.end
        if pattern in ("sustained", "power sustained"):
            self._hit(track, tones, start, (end - start) * 0.98, velocity)
        elif pattern in _ARPEGGIOS:
            step, order = _ARPEGGIOS[pattern]
            ladder = [*tones, tones[0] + 12, tones[1] + 12]
            for i in range(round((end - start) / step)):
                hold = step * (2.0 if pattern == "arpeggio" else 1.0)
                accent = 8 if i % 4 == 0 else 0
                self.add(track, ladder[order[i % len(order)]], start + i * step, hold, velocity + accent)
        else:
            for offset, length, accent in self._hits(start, end, pattern):
                self._hit(track, tones, offset, min(length, end - offset), velocity + accent, pattern == "strum")

    def _hits(self, start: float, end: float, pattern: str) -> list[tuple[float, float, int]]:
        """(beat, length, accent) of every hit of a bar pattern that falls in a chord."""
        name = {"gallop": "power gallop"}.get(pattern, pattern)
        hits = []
        bar = start // self.bar * self.bar
        while bar < end:
            for offset, length, accent in _HITS[name]:
                if offset < self.bar and start - 1e-6 <= bar + offset < end - 1e-6:
                    hits.append((bar + offset, length, accent))
            bar += self.bar
        if not hits or hits[0][0] - start > 0.76:
            # A chord that changes between hits is still struck.
            hits.insert(0, (start, min(1.0, (hits[0][0] if hits else end) - start), 0))
        return hits

    def _hit(
        self,
        track: "pretty_midi.Instrument",
        tones: list[int],
        start: float,
        length: float,
        velocity: float,
        strum: bool = False,
    ) -> None:
        up = strum and start % 1.0 > 0.1
        for i, pitch in enumerate(reversed(tones) if up else tones):
            delay = i * 0.012 * self.tempo / 60.0 if strum else 0.0
            self.add(track, pitch, start + delay, max(length - delay, 0.1), velocity - 6 * up)

    def write_bass(self) -> None:
        """Bass line in one of the named patterns."""
        program, pattern = self.bass
        track = self.track(program, "bass")
        floor = 36 if pattern in ("cello", "left hand") else 24 if pattern == "808" else 28
        for i, chord in enumerate(self.chords):
            root = floor + (chord.bass - floor) % 12
            if pattern == "walking":
                following = self.chords[i + 1] if i + 1 < len(self.chords) else chord
                self._walk(track, chord, root, floor + (following.bass - floor) % 12)
            elif pattern in ("whole", "cello", "left hand", "808"):
                # Long notes are restated every bar.
                beat = chord.start
                while beat < chord.end - 0.1:
                    stop = min((beat // self.bar + 1) * self.bar, chord.end)
                    self.add(track, root, beat, (stop - beat) * 0.96, 92)
                    if pattern == "left hand":
                        self.add(track, root + 12, beat, (stop - beat) * 0.96, 70)
                    if pattern == "808" and stop - beat > 3 and self.rng.random() < 0.5:
                        self.add(track, root + 12, stop - 0.5, 0.45, 88)
                    beat = stop
            else:
                fifth = root + (7 if 7 in QUALITIES[chord.quality] and root <= floor + 9 else 0)
                for offset, length, degree in self._bass_hits(chord, pattern):
                    pitch = {"r": root, "o": root + 12, "5": fifth}[degree]
                    self.add(track, pitch, offset, min(length, chord.end - offset) * 0.92, 94)

    def _bass_hits(self, chord: Chord, pattern: str) -> list[tuple[float, float, str]]:
        hits = []
        bar = chord.start // self.bar * self.bar
        while bar < chord.end:
            for offset, length, degree in _BASS[pattern]:
                if offset < self.bar and chord.start - 1e-6 <= bar + offset < chord.end - 1e-6:
                    hits.append((bar + offset, length, degree))
            bar += self.bar
        return hits or [(chord.start, chord.duration, "r")]

    def _walk(self, track: "pretty_midi.Instrument", chord: Chord, root: int, target: int) -> None:
        """Quarter notes: root, then chord tones, then a step that leads to the next root."""
        count = max(round(chord.duration), 1)
        tones = [root + t for t in QUALITIES[chord.quality]] + [root + 12]
        last = root
        for i in range(count):
            if i == 0:
                pitch = root
            elif i == count - 1:
                pitch = target + self.rng.choice((-1, 1, 2, -2))
            else:
                near = [t for t in tones if t != last and abs(t - last) <= 7]
                pitch = self.rng.choice(near or tones)
            self.add(track, pitch, chord.start + i, min(1.0, chord.duration - i) * 0.92, 94 if i % 2 == 0 else 86)
            last = pitch

    def write_drums(self) -> None:
        """The style's pattern, a crash and a fill where a phrase turns; light sections lose the kick or the hats."""
        track = self.track(self.style.drum_kit, "drums", drum=True)
        pattern = DRUM_PATTERNS[self.drums]
        steps = int(self.bar * 4)
        busy = self.rng.random()
        for bar in range(self.bars):
            at = bar * self.bar
            light = self.light[bar // 4]
            turn = bar % 4 == 3 and self.genre not in ("Jazz",) and self.rng.random() < 0.3 + 0.4 * busy
            if bar % 8 == 0 and bar and self.genre not in ("Jazz", "Hip-hop"):
                self.add(track, CRASH, at, 1.0, 100)
            for drum, row in pattern.items():
                if light and drum in (KICK, CRASH) and self.genre != "Hip-hop":
                    continue
                for step in range(steps):
                    mark = row[step % 16]
                    if mark == "." or (turn and step >= steps - 4 and drum != KICK):
                        continue
                    level = DRUM_LEVEL[drum] + {"X": 6, "x": -8, "o": -36}[mark]
                    self.add(track, drum, at + step / 4, 0.22, level)
                    if self.drums == "trap" and drum == HAT and self.rng.random() < 0.12:
                        self.add(track, drum, at + step / 4 + 0.125, 0.11, level - 10)
            if turn:
                self._fill(track, at + self.bar - 1.0)
            elif self.genre == "Jazz" and self.rng.random() < 0.3:
                self.add(track, SNARE, at + self.rng.choice((1.5, 2.5, 3.5)) % self.bar, 0.2, 66)

    def _fill(self, track: "pretty_midi.Instrument", at: float) -> None:
        if self.genre == "EDM":
            drums = [ELECTRIC_SNARE] * 4
        elif self.genre == "Hip-hop":
            drums = [HAT, SNARE, HAT, SNARE]
        else:
            drums = self.rng.choice(([SNARE, SNARE, HIGH_TOM, LOW_TOM], [SNARE, HIGH_TOM, MID_TOM, LOW_TOM]))
        for i, drum in enumerate(drums):
            self.add(track, drum, at + i / 4, 0.22, 92 + 5 * i)


def _repeat(step: float, length: float, accents: tuple[int, ...]) -> tuple[tuple[float, float, int], ...]:
    return tuple((i * step, length, accents[i % len(accents)]) for i in range(round(4 / step)))


# Chord patterns of one bar: (beat, length in beats, accent in velocity).
_HITS: dict[str, tuple[tuple[float, float, int], ...]] = {
    "halves": ((0, 1.95, 2), (2, 1.95, -2)),
    "quarters": _repeat(1.0, 0.9, (4, -2, 2, -2)),
    "eighths": _repeat(0.5, 0.45, (6, -6, 0, -6)),
    "push": ((0, 1.4, 4), (1.5, 1.4, 2), (3, 0.9, 0)),
    "strum": ((0, 0.95, 8), (1, 0.5, 0), (1.5, 0.5, -8), (2.5, 0.5, -4), (3, 0.5, 4), (3.5, 0.5, -8)),
    "house stabs": ((0.5, 0.4, 6), (1.5, 0.4, 4), (2.25, 0.3, 0), (3, 0.3, 2), (3.5, 0.4, 4)),
    # Chords that duck under each kick, as a side-chained compressor makes them.
    "pumped": tuple((i + 0.25, 0.7, 10) for i in range(4)),
    "power chords": ((0, 0.9, 8), (1, 0.45, -4), (1.5, 0.9, 4), (2.5, 0.45, -2), (3, 0.45, 2), (3.5, 0.45, -2)),
    "power eighths": _repeat(0.5, 0.44, (10, 0, 6, 0)),
    "power gallop": tuple(
        (b + o, length, a) for b in range(4) for o, length, a in ((0, 0.45, 8), (0.5, 0.2, -4), (0.75, 0.2, -2))
    ),
    "laid-back": ((0, 1.3, 2), (1.75, 0.7, -6), (2.5, 1.2, -2)),
    "charleston": ((0, 0.7, 4), (1.5, 0.6, 0)),
    "swing comping": ((0.5, 0.4, 2), (1.5, 0.8, 0), (3.5, 0.4, 4)),
    "freddie green": _repeat(1.0, 0.55, (-4, 6, -4, 6)),
    "bossa": ((0, 0.9, 2), (1.5, 0.45, 0), (2, 0.45, -4), (3, 0.9, 2)),
    "tremolo": _repeat(0.25, 0.24, (4, -6, -2, -6)),
}
# Arpeggios: step in beats and order over the chord's tones, the lowest two an octave up following the highest.
_ARPEGGIOS: dict[str, tuple[float, tuple[int, ...]]] = {
    "arpeggio": (0.5, (0, 1, 2, 3, 4, 3, 2, 1)),
    "arpeggio16": (0.25, (0, 1, 2, 3, 2, 1, 3, 2)),
    "alberti": (0.5, (0, 2, 1, 2)),
}
# Bass patterns of one bar: (beat, length in beats, r root, o octave, 5 fifth).
_BASS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "pop": ((0, 1.4, "r"), (1.5, 0.5, "r"), (2, 1.4, "r"), (3.5, 0.5, "5")),
    "eighths": tuple((i / 2, 0.5, "r") for i in range(8)),
    "off-beat": tuple((i + 0.5, 0.45, "o" if i == 3 else "r") for i in range(4)),
    "sixteenths": tuple((i / 4, 0.22, "r") for i in range(16) if i % 4),
    "rolling": tuple((i / 4, 0.22, "o" if i % 4 == 3 else "r") for i in range(16) if i % 4),
    "kick": ((0, 1.6, "r"), (1.75, 0.6, "r"), (2.5, 1.3, "r")),
    "bossa": ((0, 1.4, "r"), (1.5, 0.5, "5"), (2, 1.4, "5"), (3.5, 0.5, "r")),
}
