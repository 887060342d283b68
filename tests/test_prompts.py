"""The prompts file: 100 prompts over seven genres, clean text."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from blendbench.resources import package_folder

PROMPTS = Path(__file__).resolve().parents[1] / "data_manifests" / "prompts.csv"
GENRE_COUNTS = {"Pop": 15, "EDM": 15, "Rock": 14, "Hip-hop": 14, "Punk": 14, "Jazz": 14, "Classical": 14}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with PROMPTS.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_columns_are_id_genre_and_prompt(rows):
    assert list(rows[0]) == ["prompt_id", "genre", "prompt"]


def test_hundred_prompts_spread_over_seven_genres(rows):
    assert Counter(row["genre"] for row in rows) == GENRE_COUNTS
    assert len(rows) == 100


def test_ids_number_the_prompts_of_each_genre_in_order(rows):
    expected = [f"{genre.lower()}-{i:02d}" for genre, count in GENRE_COUNTS.items() for i in range(1, count + 1)]
    assert [row["prompt_id"] for row in rows] == expected


def test_no_two_prompts_say_the_same(rows):
    words = [frozenset(row["prompt"].lower().replace(",", " ").replace(".", " ").split()) for row in rows]
    assert len({row["prompt"].lower() for row in rows}) == 100
    for i, first in enumerate(words):
        for second in words[i + 1 :]:
            assert len(first & second) / len(first | second) < 0.6, (sorted(first), sorted(second))


def test_each_prompt_names_its_genre(rows):
    for row in rows:
        assert row["genre"].lower() in row["prompt"].lower(), row["prompt_id"]


def test_prompts_have_12_to_25_words(rows):
    for row in rows:
        assert 12 <= len(row["prompt"].split()) <= 25, row["prompt_id"]


def test_each_prompt_names_a_tempo(rows):
    tempo = re.compile(
        r"\d+ BPM|\bslow\b|\bpace\b|\btempo\b|\badagio\b|\bandante\b|\ballegro\b|\bpresto\b", re.IGNORECASE
    )
    for row in rows:
        assert tempo.search(row["prompt"]), row["prompt_id"]


def test_built_in_text_encoder_reads_every_prompt_to_its_end(rows):
    from transformers import AutoTokenizer

    folder = package_folder("blendbench.assets") / "pocket" / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in rows:
        assert len(tokenizer(row["prompt"]).input_ids) <= tokenizer.model_max_length, row["prompt_id"]


def test_text_is_ascii_in_lf_lines_without_stray_whitespace(rows):
    raw = PROMPTS.read_bytes()
    assert raw.isascii()
    assert b"\r" not in raw
    assert raw.endswith(b".\n") or raw.endswith(b'."\n')
    for row in rows:
        for value in row.values():
            assert value == " ".join(value.split()), row["prompt_id"]
        assert row["prompt"][0].isupper(), row["prompt_id"]
        assert row["prompt"].endswith("."), row["prompt_id"]
