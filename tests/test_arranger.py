"""The music source: songs read and composed, arrangements, captions, sound."""

import math
import shutil
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from blendbench.errors import BlendbenchError
from blendbench.train.data import render
from blendbench.train.data.arranger import DRUM_LEVEL, DRUM_PATTERNS, GENRES, STYLES, Arrangement, arrange
from blendbench.train.data.captions import GENRE_KEYS, captions
from blendbench.train.data.songs import MAJOR_SCALE, MINOR_SCALE, compose, held_out_songs, read_pop909

SONG = "004"


def _notes(arrangement: Arrangement) -> list[tuple]:
    return [
        (i.program, i.is_drum, n.pitch, n.velocity, n.start, n.end)
        for i in arrangement.midi.instruments
        for n in i.notes
    ]


def _copy_song(shared_data: Path, folder: Path) -> Path:
    return Path(shutil.copytree(shared_data / "POP909" / SONG, folder / SONG))


# Songs


def test_pop909_song_has_its_annotated_meter_tempo_key_and_tune(shared_data: Path) -> None:
    song = read_pop909(shared_data / "POP909" / SONG)
    assert (song.id, song.beats_per_bar, song.mode, song.tonic) == ("004", 4, "minor", 3)
    assert song.tempo == pytest.approx(71.6, abs=0.1)
    midi = pretty_midi.PrettyMIDI(str(shared_data / "POP909" / SONG / f"{SONG}.mid"))
    track = next(i for i in midi.instruments if i.name == "MELODY")
    assert {n.pitch for n in song.melody} == {n.pitch for n in track.notes}
    # Steady tempo: beats between first and last note agree with the seconds between them.
    seconds = track.notes[-1].start - track.notes[0].start
    assert song.melody[-1].start - song.melody[0].start == pytest.approx(seconds * song.tempo / 60, abs=0.5)
    assert song.chords[0].pitch_classes[0] == song.chords[0].root
    assert all(a.end <= b.start for a, b in zip(song.chords, song.chords[1:], strict=False))


def test_malformed_chord_file_is_named_with_its_line(shared_data: Path, tmp_path: Path) -> None:
    folder = _copy_song(shared_data, tmp_path)
    rows = (folder / "chord_midi.txt").read_text().splitlines()
    rows[4] = "1.0 2.0 H:strange"
    (folder / "chord_midi.txt").write_text("\n".join(rows))
    with pytest.raises(BlendbenchError, match=r"chord_midi\.txt:5: unknown chord 'H:strange'"):
        read_pop909(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("beat_midi.txt", "0.0 1.0\n", r"beat_midi\.txt:1: 3 columns"),
        ("beat_midi.txt", "zero 1.0 1.0\n", r"beat_midi\.txt:1: could not convert"),
        ("beat_midi.txt", "1.0 1.0 1.0\n" * 9, r"beat_midi\.txt: beat times must rise"),
        ("chord_midi.txt", "", r"chord_midi\.txt: holds no chord"),
        ("004.mid", "no MIDI", r"004\.mid: not a readable MIDI file"),
    ],
)
def test_malformed_pop909_files_are_named(
    shared_data: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = _copy_song(shared_data, tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(BlendbenchError, match=message):
        read_pop909(folder)


def test_missing_pop909_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BlendbenchError, match=r"beat_midi\.txt: cannot be read"):
        read_pop909(tmp_path / "123")


def test_held_out_songs_are_those_of_the_music_test_set(shared_data: Path) -> None:
    import json

    lines = (shared_data / "MusicBench" / "MusicBench_train.json").read_text().splitlines()
    assert held_out_songs() == {json.loads(line)["song"] for line in lines}


def test_composed_melody_stays_in_key_and_strong_beats_lie_in_chords() -> None:
    for seed in range(40):
        song = compose(seed)
        scale = {(song.tonic + d) % 12 for d in (MAJOR_SCALE if song.mode == "major" else MINOR_SCALE)}
        assert all(n.pitch % 12 in scale for n in song.melody)
        strong = [n for n in song.melody if n.start % 2 == 0]
        chord_of = {n: next(c for c in song.chords if c.start <= n.start < c.end) for n in strong}
        inside = sum(n.pitch % 12 in chord_of[n].pitch_classes for n in strong)
        assert inside >= 0.95 * len(strong)


def test_composing_is_deterministic_and_varies_with_the_seed() -> None:
    assert compose(5) == compose(5)
    assert len({compose(seed).melody for seed in range(20)}) == 20


# Arrangements


def test_same_seed_gives_same_notes_and_facts() -> None:
    song = compose(1)
    for genre in GENRES:
        first, second = arrange(song, genre, 7, 15.0), arrange(song, genre, 7, 15.0)
        assert _notes(first) == _notes(second)
        assert first.facts == second.facts
        assert _notes(first) != _notes(arrange(song, genre, 8, 15.0))


def test_genres_differ_in_facts_and_drums() -> None:
    tempi, drums = {}, {}
    for genre in GENRES:
        made = [arrange(compose(seed), genre, seed, 12.0) for seed in range(12)]
        assert {a.facts.genre for a in made} == {genre}
        tempi[genre] = [a.facts.tempo for a in made]
        drums[genre] = {a.facts.drums for a in made}
        assert all(any(i.is_drum for i in a.midi.instruments) == (genre != "Classical") for a in made)
    assert min(tempi["Punk"]) >= 132
    assert sorted(tempi["Punk"])[6] > 150 > max(tempi["EDM"])
    assert max(tempi["Hip-hop"]) <= 95
    named = [words for genre in GENRES for words in drums[genre] if words]
    assert len(named) == len(set(named))
    for genre in GENRES:
        assert len(STYLES[genre]) >= 3


@pytest.mark.parametrize("genre", GENRES)
def test_every_style_can_be_played(genre: str) -> None:
    played: set[str] = set()
    seed = 0
    while played < {style.name for style in STYLES[genre]} or seed < 24:
        played.add(arrange(compose(seed % 5), genre, seed, 8.0).facts.style)
        seed += 1
        assert seed < 200, f"never drawn: { ({style.name for style in STYLES[genre]} - played) }"
    drums = {name for style in STYLES[genre] for name in style.drums}
    assert {drum for name in drums for drum in DRUM_PATTERNS[name]} <= set(DRUM_LEVEL)


def test_parts_are_mixed_by_seed_within_a_few_decibels() -> None:
    volumes: dict[str, set[int]] = {}
    for seed in range(12):
        for track in arrange(compose(1), "Pop", seed, 8.0).midi.instruments:
            (change,) = track.control_changes
            assert (change.number, change.time) == (7, 0.0)
            volumes.setdefault(track.name, set()).add(change.value)
    assert all(len(values) > 5 for name, values in volumes.items() if name in ("lead", "chords", "bass", "drums"))
    # 40 log10 of the ratio is the gain: 13 dB for the drums.
    assert 40 * math.log10(max(volumes["drums"]) / min(volumes["drums"])) <= 13.3
    assert max(max(values) for values in volumes.values()) <= 127
    for seed in range(4):
        quartet = arrange(compose(1), "Classical", seed, 8.0).midi.instruments
        assert {(track.name, track.control_changes[0].value) for track in quartet} <= set(
            {"lead": 112, "chords": 92, "fill": 84, "pad": 80, "bass": 108}.items()
        )


@pytest.mark.parametrize("genre", GENRES)
def test_excerpt_has_the_asked_length_and_tracks_of_one_band(genre: str) -> None:
    arrangement = arrange(compose(3), genre, 2, 20.0)
    assert 18.0 < arrangement.midi.get_end_time() < 27.0
    roles = [i.name for i in arrangement.midi.instruments]
    assert {"lead", "chords", "bass"} <= set(roles)
    assert all(n.end > n.start >= 0 for i in arrangement.midi.instruments for n in i.notes)


def test_tune_survives_arrangement_up_to_transposition(shared_data: Path) -> None:
    song = read_pop909(shared_data / "POP909" / SONG)
    lead = arrange(song, "Classical", 0).midi.instruments[0]
    assert lead.name == "lead"
    played = {n.pitch % 12 for n in lead.notes}
    written = {n.pitch % 12 for n in song.melody}
    assert any({(p + shift) % 12 for p in written} <= played for shift in range(12))


def test_unknown_genre_is_refused_with_the_choices() -> None:
    with pytest.raises(BlendbenchError, match=r"genre 'Polka' is unknown; choose one of Pop, EDM"):
        arrange(compose(0), "Polka", 0)


# Captions


def test_captions_name_genre_and_mostly_an_instrument() -> None:
    for genre in GENRES:
        texts, with_instrument = [], 0
        for seed in range(8):
            facts = arrange(compose(seed), genre, seed, 8.0).facts
            made = captions(facts, seed, 6)
            last_words = {word.split()[-1].rstrip("s") for word in facts.instruments}
            with_instrument += sum(any(word in text.lower() for word in last_words) for text in made)
            texts += made
        assert all(any(key in text.lower() for key in GENRE_KEYS[genre]) for text in texts), genre
        assert with_instrument > 0.5 * len(texts)
        assert len(set(texts)) > 0.9 * len(texts)
        assert min(len(t.split()) for t in texts) <= 3
        assert max(len(t.split()) for t in texts) >= 15


def test_captions_are_deterministic_and_vary_with_the_seed() -> None:
    facts = arrange(compose(2), "Jazz", 1, 8.0).facts
    assert captions(facts, 4, 5) == captions(facts, 4, 5)
    assert captions(facts, 4, 5) != captions(facts, 5, 5)
    assert captions(facts, 0, 0) == []


# Sound


@pytest.mark.usefixtures("fluidsynth")
def test_rendered_score_sounds_from_its_first_note_to_its_last() -> None:
    midi = pretty_midi.PrettyMIDI()
    piano = pretty_midi.Instrument(0, name="lead")
    piano.notes = [pretty_midi.Note(100, 69, 1.0, 1.5), pretty_midi.Note(100, 69, 2.0, 2.5)]
    midi.instruments.append(piano)
    other = pretty_midi.PrettyMIDI()
    other.instruments.append(pretty_midi.Instrument(73, name="lead"))
    other.instruments[0].notes = [pretty_midi.Note(100, 72, 0.0, 1.0)]
    audio, second = render.render_many([midi, other], sample_rate=22050)
    assert audio.dtype == np.float32
    assert len(audio) == round(5.0 * 22050)
    assert len(second) == round(3.5 * 22050)
    assert np.abs(audio[: int(0.98 * 22050)]).max() < 1e-3
    assert np.abs(audio[int(1.0 * 22050) : int(1.1 * 22050)]).max() > 0.01
    for sound, begin, pitch in ((audio, 1.0, 440.0), (second, 0.2, 523.25)):
        window = sound[int(begin * 22050) :][:8192] * np.hanning(8192)
        spectrum = np.abs(np.fft.rfft(window))
        found = np.flatnonzero(spectrum > 0.3 * spectrum.max())[0] * 22050 / 8192
        assert found == pytest.approx(pitch, rel=0.03)


@pytest.mark.usefixtures("fluidsynth")
def test_clips_have_length_loudness_and_metadata() -> None:
    import pyloudnorm

    jobs = [(compose(0), "Pop", 1), (compose(0), "Punk", 1)]
    made = list(render.render_clips(jobs, seconds=6.0, clips_per_job=2))
    assert [(m["genre"], m["index"]) for _, m in made] == [("Pop", 0), ("Pop", 1), ("Punk", 0), ("Punk", 1)]
    for clip, metadata in made:
        assert clip.shape == (225_792,)
        assert clip.dtype == np.float32
        assert np.abs(clip).max() < 1.0
        assert pyloudnorm.Meter(44100).integrated_loudness(clip) == pytest.approx(-18.0, abs=0.5)
        assert len(metadata["captions"]) == 3
        assert metadata["song"] == "composed-0"
        assert metadata["drums"]


def test_missing_soundfont_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BlendbenchError, match=r"none\.sf2: not found; install one \(Debian: apt-get install"):
        render.find_soundfont(tmp_path / "none.sf2")


def test_missing_fluidsynth_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BlendbenchError, match=r"fluidsynth: program not found; install it \(Debian: apt-get install"):
        render.find_fluidsynth()
