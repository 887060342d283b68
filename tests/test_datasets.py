"""Tables of data sets, pairing of noise with prompts, and the halves of the music."""

import collections
import random
from pathlib import Path

import pytest
from support.worlds import GENRES, write_esc50, write_musicbench

from blendbench.datasets import MusicClip, NoiseClip, Prompt, esc50, musicbench
from blendbench.datasets.builtin import prompts as builtin_prompts
from blendbench.datasets.choosing import split_music
from blendbench.datasets.tables import inside, read_csv
from blendbench.errors import BlendbenchError
from blendbench.seeds import shuffled, stable_seed
from blendbench.tasks.blend.pairing import make_pairs

ROW = "1-1-A-0.wav,1,0,dog,True,1,A"
HEADER = "filename,fold,target,category,esc10,src_file,take"


def clips(count: int, labels: int = 3) -> list[NoiseClip]:
    return [NoiseClip(f"c{i:03d}", Path(f"c{i}.wav"), f"label{i % labels}", f"s{i}") for i in range(count)]


def prompts(per_genre: int = 4) -> list[Prompt]:
    return [Prompt(f"{genre}-{i}", genre, f"{genre} number {i}") for genre in GENRES for i in range(per_genre)]


def tracks(per_genre: int, clips_each: int = 2) -> list[MusicClip]:
    return [
        MusicClip(f"{genre}-{t}-{c}", Path("x.ogg"), genre, "", f"{genre}-{t}")
        for genre in GENRES
        for t in range(per_genre)
        for c in range(clips_each)
    ]


def write_table(root: Path, text: str | bytes) -> Path:
    meta = root / "ESC-50" / "meta"
    meta.mkdir(parents=True)
    (meta / "esc50.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return meta / "esc50.csv"


def refusal(function, *arguments) -> str:
    with pytest.raises(BlendbenchError) as raised:
        function(*arguments)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_esc50_table_is_read_in_its_order(tmp_path: Path):
    audio = write_esc50(tmp_path, ["2-7-B-1.wav", "1-5-A-0.wav"])
    first, second = esc50.esc50(str(tmp_path))
    assert first == NoiseClip(
        "2-7-B-1", audio / "2-7-B-1.wav", "wind", "100000", 1, "CC BY-NC 3.0", root=tmp_path / "ESC-50"
    )
    assert (second.id, second.label, second.fold) == ("1-5-A-0", "engine", 2)


def test_esc50_can_be_narrowed_to_folds_and_categories(tmp_path: Path):
    write_esc50(tmp_path, [f"{i}.wav" for i in range(10)])
    assert [clip.id for clip in esc50.esc50(str(tmp_path), folds=[1])] == ["0", "5"]
    assert [clip.id for clip in esc50.esc50(str(tmp_path), folds=[1], categories=["engine"])] == ["5"]


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW}\n",
        f"\ufeff{HEADER}\n{ROW}\n",
        f"{HEADER}\r\n{ROW}\r\n",
        f"\ufeff{HEADER}\r\n{ROW}",
        f'{HEADER}\n"1-1-A-0.wav","1","0","dog","True","1","A"\n\n',
        "take,src_file,esc10,category,target,fold,filename\nA,1,True,dog,0,1,1-1-A-0.wav\n",
    ],
    ids=["plain", "byte-order mark", "CRLF", "both", "quoted", "other order"],
)
def test_dialects_of_the_table_read_alike(tmp_path: Path, text: str):
    write_table(tmp_path, text)
    (clip,) = esc50.esc50(str(tmp_path))
    assert (clip.id, clip.label, clip.source, clip.fold) == ("1-1-A-0", "dog", "1", 1)


def test_missing_table_names_its_place_and_the_key(tmp_path: Path):
    text = refusal(esc50.esc50, str(tmp_path))
    assert str(tmp_path / "ESC-50" / "meta" / "esc50.csv") in text
    assert "data.root" in text


@pytest.mark.parametrize("column", esc50.COLUMNS)
def test_missing_column_is_named(tmp_path: Path, column: str):
    table = write_table(tmp_path, f"{HEADER.replace(column, 'other')}\n{ROW}\n")
    text = refusal(esc50.esc50, str(tmp_path))
    assert str(table) in text
    assert repr(column) in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "column"),
        (f"{HEADER}\n", "no row"),
        (f"{HEADER}\n1-1-A-0.wav,1\n", "row 2"),
        (b"\xfe\x00f", "cannot be read"),
        (f"{HEADER}\n" + "x" * 200_000 + ",1,0,dog,True,1,A\n", "cannot be read"),
    ],
    ids=["empty", "header only", "short row", "not UTF-8", "endless field"],
)
def test_malformed_table_is_one_line_that_names_it(tmp_path: Path, content: str | bytes, expected: str):
    table = write_table(tmp_path, content)
    text = refusal(esc50.esc50, str(tmp_path))
    assert str(table) in text
    assert expected in text
    assert len(text) < 600


@pytest.mark.parametrize("name", ["../../secret.wav", "/etc/passwd", "a/../../b.wav", ".."])
def test_file_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str):
    table = write_table(tmp_path, f"{HEADER}\n{ROW.replace('1-1-A-0.wav', name)}\n")
    text = refusal(esc50.esc50, str(tmp_path))
    assert str(table) in text
    assert name in text


def test_file_name_with_dots_inside_stays_allowed(tmp_path: Path):
    assert inside(tmp_path, "a..b/c.wav", tmp_path / "t") == tmp_path / "a..b" / "c.wav"


def test_folder_in_the_place_of_a_table_cannot_be_read(tmp_path: Path):
    assert str(tmp_path) in refusal(lambda: list(read_csv(tmp_path, ("a",))))


def test_musicbench_layout_gives_genre_caption_and_track(tmp_path: Path):
    write_musicbench(tmp_path)
    folder = tmp_path / "MusicBench"
    found = musicbench.read_table(folder)
    assert len(found) == 14
    assert found[0] == musicbench.Row(
        MusicClip(
            "classical-0", folder / "data" / "classical-0.ogg", "Classical", "A Classical piece.", "Classical-0",
            root=folder,
        ), 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no clip"),
        ("not json\n", "line 1"),
        ('{"location": "data/a.wav"}\n{"main_caption": "x"}\n', "line 2"),
        ("[1]\n", "line 1"),
        ('{"location": "../../a.wav"}\n', "leaves"),
    ],
)
def test_malformed_musicbench_table_is_one_line(tmp_path: Path, text: str, expected: str):
    table = tmp_path / "MusicBench" / "MusicBench_train.json"
    table.parent.mkdir()
    table.write_text(text)
    message = refusal(musicbench.musicbench, str(tmp_path))
    assert str(table) in message
    assert expected in message


def test_missing_musicbench_names_its_place_and_the_key(tmp_path: Path):
    text = refusal(musicbench.musicbench, str(tmp_path))
    assert "MusicBench_train.json" in text
    assert "data.root" in text


def test_musicbench_with_mark_blank_lines_and_crlf_reads(tmp_path: Path):
    table = tmp_path / "MusicBench" / "MusicBench_train.json"
    table.parent.mkdir()
    table.write_bytes('\ufeff{"location": "data/-abc_aug1.wav"}\r\n\r\n{"location": "data/-abc.wav"}\r\n'.encode())
    first, second = musicbench.read_table(tmp_path / "MusicBench")
    assert (first.clip.id, first.clip.source, first.clip.genre, first.copy) == ("-abc_aug1", "-abc", "", 1)
    # An augmented copy belongs to its original's track.
    assert (second.clip.source, second.copy) == (first.clip.source, 0)


def test_real_esc50_has_its_clips_in_place(shared_data: Path):
    found = esc50.esc50(str(shared_data))
    assert len(found) == 200
    assert set(collections.Counter(clip.label for clip in found).values()) == {20}
    assert all(clip.path.is_file() for clip in found)


def test_real_musicbench_has_its_clips_in_place(shared_data: Path):
    found = musicbench.musicbench(str(shared_data))
    # Two five-second clips of each of the 504 excerpts.
    assert len(found) == 1008
    assert len({clip.source for clip in found}) == 252
    assert {clip.genre for clip in found} == set(GENRES)
    assert all(clip.path.is_file() for clip in found)


def test_genres_of_prompts_are_those_of_the_music(shared_data: Path):
    assert {p.genre for p in builtin_prompts()} == {clip.genre for clip in musicbench.musicbench(str(shared_data))}


def test_real_pairs_are_unique_and_even(shared_data: Path):
    found = esc50.esc50(str(shared_data))
    pairs = make_pairs("esc50", found, builtin_prompts(), 7, 0)
    assert len(pairs) == len({pair.id for pair in pairs}) == 1400
    assert set(collections.Counter(pair.prompt.genre for pair in pairs).values()) == {200}
    assert set(collections.Counter(pair.clip.id for pair in pairs).values()) == {7}


def test_real_halves_share_no_song(shared_data: Path):
    reference, music = split_music(musicbench.musicbench(str(shared_data)), 0)
    assert len(reference) + len(music) == 1008
    assert not {clip.source for clip in reference} & {clip.source for clip in music}


def test_seed_is_the_golden_one():
    # First 63 bits of SHA-256("0\x1fpair"); another value would change every result.
    assert stable_seed(0, "pair") == 8388022977897266455
    assert stable_seed("0", "pair") == stable_seed(0, "pair")
    assert stable_seed("a", "bc") != stable_seed("ab", "c")


def test_pairs_depend_on_seed_and_on_nothing_else():
    pairs = make_pairs("d", clips(20), prompts(), 3, 0)
    assert make_pairs("d", clips(20), prompts(), 3, 0) == pairs
    assert make_pairs("d", clips(20), prompts(), 3, 1) != pairs
    assert [p.id for p in make_pairs("e", clips(20), prompts(), 3, 0)] == [p.id.replace("d--", "e--") for p in pairs]


@pytest.mark.parametrize("shuffle", range(3))
def test_order_of_clips_and_prompts_changes_nothing(shuffle: int):
    some, texts = clips(20), prompts()
    random.Random(shuffle).shuffle(some)
    random.Random(shuffle).shuffle(texts)
    assert make_pairs("d", some, texts, 3, 0) == make_pairs("d", clips(20), prompts(), 3, 0)


@pytest.mark.parametrize("per_clip", [1, 2, 7])
def test_more_prompts_a_clip_keep_the_first_pairs(per_clip: int):
    few = make_pairs("d", clips(20), prompts(), per_clip, 0)
    assert make_pairs("d", clips(20), prompts(), 7, 0)[: len(few)] == few
    assert len(few) == 20 * per_clip


@pytest.mark.parametrize("count", [1, 5, 14, 20])
def test_prompts_of_a_clip_have_different_genres(count: int):
    by_clip = collections.defaultdict(list)
    for pair in make_pairs("d", clips(count), prompts(), 7, 0):
        by_clip[pair.clip.id].append(pair.prompt.genre)
    assert all(sorted(genres) == sorted(GENRES) for genres in by_clip.values())


@pytest.mark.parametrize("count", [5, 14, 20])
def test_ids_of_pairs_are_unique(count: int):
    pairs = make_pairs("d", clips(count), prompts(), 7, 0)
    assert len({pair.id for pair in pairs}) == len(pairs) == 7 * count


def spread(names: list[str], known: set[str]) -> int:
    counts = collections.Counter(names)
    return max(counts[name] for name in known) - min(counts[name] for name in known)


@pytest.mark.parametrize("count", [14, 20, 21])
def test_first_pairs_are_spread_over_genres_and_labels(count: int):
    pairs = make_pairs("d", clips(count), prompts(), 7, 0)
    labels = {pair.clip.label for pair in pairs}
    for size in range(1, count + 1):
        assert spread([p.prompt.genre for p in pairs[:size]], set(GENRES)) <= 1
    for size in range(1, count // 3 * 3 + 1):
        assert spread([p.clip.label for p in pairs[:size]], labels) <= 1
    assert spread([p.prompt.genre for p in pairs], set(GENRES)) == 0


@pytest.mark.parametrize("count", [14, 20, 200])
def test_any_first_pairs_are_within_one_of_even_over_genres(count: int):
    pairs = make_pairs("d", clips(count), prompts(), 7, 0)
    assert max(spread([p.prompt.genre for p in pairs[:size]], set(GENRES)) for size in range(1, len(pairs) + 1)) <= 1


def test_prompts_of_a_genre_take_turns():
    pairs = make_pairs("d", clips(28), prompts(4), 1, 0)
    assert set(collections.Counter(pair.prompt.id for pair in pairs).values()) == {1}


@pytest.mark.parametrize(
    ("some", "texts", "per_clip", "expected"),
    [
        ([], prompts(), 1, "no noise clips"),
        (clips(2), [], 1, "no noise clips or no prompts"),
        (clips(2), prompts(), 0, "prompts_per_clip=0"),
        (clips(2) * 2, prompts(), 1, "clip id 'c000' stands twice"),
        (clips(2), prompts() * 2, 1, "prompt id 'Classical-0' stands twice"),
    ],
)
def test_what_cannot_be_paired_is_refused(some, texts, per_clip, expected):
    assert expected in (text := refusal(make_pairs, "d", some, texts, per_clip, 0))
    assert "dataset d" in text


@pytest.mark.parametrize("per_genre", [2, 3, 8])
def test_halves_never_share_a_track_and_are_even_by_genre(per_genre: int):
    reference, music = split_music(tracks(per_genre), 0)
    assert len(reference) + len(music) == len(tracks(per_genre))
    assert not {c.source for c in reference} & {c.source for c in music}
    for genre in GENRES:
        halves = [len({c.source for c in half if c.genre == genre}) for half in (reference, music)]
        assert abs(halves[0] - halves[1]) <= 1


def test_halves_depend_on_seed_and_not_on_order():
    some = tracks(8)
    random.Random(1).shuffle(some)
    again = split_music(some, 0)
    assert [{c.id for c in half} for half in again] == [{c.id for c in half} for half in split_music(tracks(8), 0)]
    assert {c.id for c in split_music(tracks(8), 1)[0]} != {c.id for c in again[0]}


def test_lists_of_the_halves_do_not_depend_on_order():
    # Random music is drawn by place in the list, so the place counts too.
    some = tracks(8)
    random.Random(1).shuffle(some)
    assert split_music(some, 0) == split_music(tracks(8), 0)


def test_track_under_two_genres_stays_whole():
    both = [MusicClip(f"x{i}", Path("x"), genre, "", "song") for i, genre in enumerate(("Pop", "Rock"))]
    halves = split_music([*both, *tracks(2)], 0)
    assert [sum(c.source == "song" for c in half) for half in halves] in ([2, 0], [0, 2])


@pytest.mark.parametrize("some", [[], tracks(1, 1)[:1], tracks(1, 5)[:5]])
def test_fewer_than_two_tracks_have_no_halves(some):
    assert "at least two" in refusal(split_music, some, 0)


def test_shuffling_is_a_permutation():
    assert sorted(shuffled(range(50), 3, str)) == list(range(50))
    assert shuffled(range(50), 3, str) != list(range(50))
