"""Music with pictures: who says what, splits by song, and folders of clips that grow."""

import json
import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from blendbench.errors import BlendbenchError
from blendbench.train.data import drawn, growing, pictured, songs
from blendbench.train.data.arranger import GENRES, arrange


def told(tempo: float, minor: bool, drums: bool, style: drawn.Style, seed: int) -> dict[str, float]:
    return drawn.told_by(drawn.draw(tempo, minor, drums, style, seed))


@pytest.mark.parametrize("style", drawn.STYLES)
def test_a_picture_tells_tempo_mode_and_drums_whatever_else_is_drawn(style):
    draw = np.random.default_rng(0)
    found = []
    for seed in range(40):
        tempo = float(drawn.SLOWEST * 2 ** draw.random())
        minor, drums = bool(draw.random() < 0.5), bool(draw.random() < 0.5)
        found.append((tempo, minor, drums, told(tempo, minor, drums, style, seed)))
    for tempo, minor, drums, seen in found:
        assert (0.4 < seen["hue"] < 0.75) == minor, (tempo, seen)
        assert (seen["contrast"] > 0.3) == drums, (tempo, seen)
    loud = [(tempo, seen["covered"]) for tempo, _, drums, seen in found if drums]
    assert spearmanr(*zip(*loud, strict=True)).statistic > 0.9


def test_the_same_seed_draws_the_same_picture_and_another_one_another():
    same = [np.asarray(drawn.draw(100, True, False, "painting", 3)) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], np.asarray(drawn.draw(100, True, False, "painting", 4)))


def test_strokes_are_even_steps_of_the_tempos_logarithm():
    assert drawn.strokes_of(75) == drawn.FEWEST and drawn.strokes_of(150) == drawn.MOST
    assert drawn.strokes_of(75 * 2**0.5) == round((drawn.FEWEST * drawn.MOST) ** 0.5)
    assert drawn.strokes_of(20) == drawn.FEWEST and drawn.strokes_of(400) == drawn.MOST


def test_a_caption_says_genre_and_instruments_and_no_more():
    for index, genre in enumerate(GENRES):
        facts = arrange(songs.compose(index), genre, index, 10.0).facts
        for text in pictured.captions(facts, 0, 12):
            assert not re.search(r"\b(slow|fast|bpm|tempo|major|minor|drum|beat at|beats a)", text.lower()), text
            assert not re.search(r"\d", text.replace("808", "")), text


def test_a_freed_arrangement_plays_at_its_own_tempo():
    plain = arrange(songs.compose(3), "Rock", 5, 12.0)
    again = pictured.freed(arrange(songs.compose(3), "Rock", 5, 12.0), 5)
    assert drawn.SLOWEST <= again.facts.tempo <= drawn.FASTEST
    own = next(one for one in plain.midi.instruments if not one.is_drum).notes[5]
    moved = next(one for one in again.midi.instruments if not one.is_drum).notes[5]
    pace = moved.start / own.start
    octaves = np.log2(plain.facts.tempo / again.facts.tempo / pace)
    assert octaves == pytest.approx(round(octaves), abs=1e-6)  # twice or half as fast is the same tempo
    assert 2**-0.51 < pace < 2**0.51
    silent = [
        seed for seed in range(40) if not pictured.freed(arrange(songs.compose(3), "Rock", seed, 5.0), seed).facts.drums
    ]
    assert 10 < len(silent) < 30


def make(chunk: int) -> growing.Made:
    return [({"a.u8": np.full(3, 10 * chunk + place, np.uint8)}, {"name": f"{chunk}-{place}"}) for place in range(2)]


def test_a_stopped_build_goes_on_and_a_torn_row_does_not_count(tmp_path):
    file, whole = tmp_path / "rows.jsonl", tmp_path / "whole" / "rows.jsonl"
    growing.grow(whole, {"a.u8": 3}, [0, 1, 2], make, 1)
    growing.grow(file, {"a.u8": 3}, [0, 1], make, 1)
    with file.open("ab") as rows, (tmp_path / "a.u8").open("ab") as values:
        rows.write(b'{"name": "2-0", "chu')
        values.write(b"\x01\x02")
    assert [row["name"] for row in growing.rows(file)] == ["0-0", "0-1", "1-0", "1-1"]
    growing.grow(file, {"a.u8": 3}, [0, 1, 2], make, 1)
    assert file.read_bytes() == whole.read_bytes()
    assert (tmp_path / "a.u8").read_bytes() == (tmp_path / "whole" / "a.u8").read_bytes()
    assert growing.rows(tmp_path / "none.jsonl") == []


@pytest.mark.usefixtures("fluidsynth")
def test_clips_are_rendered_with_their_facts_and_split_by_song(tmp_path, shared_data):
    made = pictured.build(tmp_path / "pictured", shared_data / "POP909", arrangements=2, held_out=2, workers=1)
    train, held = (made.of(split) for split in ("train", "held_out"))
    assert len(train) and len(held) and len(train) + len(held) == len(made.rows) == len(made.images)
    names = [{made.rows[row]["song"] for row in rows} for rows in (train, held)]
    assert not names[0] & names[1] and names[1] <= songs.held_out_songs()
    row = made.rows[0]
    assert row["mode"] in ("major", "minor") and row["drums"] in ("yes", "no") and 75 <= row["tempo"] <= 150
    assert made.images[0].std() > 5
    both = made.pictures([0, 0], [1, 2])
    assert both.shape == (2, 3, 256, 256) and 0 <= float(both.min()) <= float(both.max()) <= 1
    assert not torch.equal(both[0], both[1]) and torch.equal(made.pictures([0]), made.pictures([0]))
    assert json.loads((tmp_path / "pictured" / pictured.ROWS).read_text().splitlines()[0])["chunk"] == 0


def test_no_clips_is_one_line(tmp_path):
    with pytest.raises(BlendbenchError, match="no clips with pictures here; run `blendbench train pictured`"):
        pictured.Pictured.open(tmp_path)
