"""The data sets of the paper at its scale: which clips the rules choose, the manifests, and the counts of pairs."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support import official
from support.worlds import call, rows_of

from blendbench.composing import compose
from blendbench.datasets import MusicClip, NoiseClip, epic_sounds, esc50, manifests, musicbench, reading
from blendbench.datasets.choosing import quotas, split_music, spread
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError, ClipError
from blendbench.resources import package_folder
from blendbench.runs.folder import Run
from blendbench.runs.plan import prepare
from blendbench.sound import audio
from blendbench.tasks.blend.noises import Noises

HEARD = {"seconds": 5.0, "lufs": -18.0, "short_clip": "loop"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """ESC-50, EPIC-SOUNDS and MusicBench in their official layouts; sound for the first clips of EPIC-SOUNDS only."""
    root = tmp_path_factory.mktemp("data")
    official.write_esc50_table(root)
    official.write_musicbench_table(root, official.musicbench_lines(5_600))
    folder = root / "EPIC-SOUNDS"
    folder.mkdir()
    for name in ("EPIC_Sounds_validation.csv", "sound_events_not_categorised.csv"):
        shutil.copy(shared_data / "EPIC-SOUNDS" / name, folder)
    (folder / "audio").mkdir()
    chosen = epic_sounds.epic_sounds(str(root))
    (folder / "audio").rmdir()
    file = folder / "EPIC_audio.hdf5"
    by_class = {clip.label: clip for clip in reversed(chosen)}
    first = [NoiseClip(**{**fields(clip), "member": clip.source, "path": file}) for clip in by_class.values()]
    rest = [NoiseClip(**{**fields(clip), "member": clip.source, "path": file}) for clip in chosen]
    official.write_epic_audio(file, [*first, *rest], sounding=len(first))
    return root


def fields(clip: NoiseClip) -> dict:
    return {name: getattr(clip, name) for name in NoiseClip.__dataclass_fields__}


def test_esc50_gives_six_clips_a_class_from_six_sources_over_all_folds(data: Path):
    chosen = esc50.esc50(str(data), per_class=6)
    assert Counter(clip.label for clip in chosen) == dict.fromkeys(official.CATEGORIES, 6)
    assert len({clip.source for clip in chosen}) == 300
    folds = Counter(clip.fold for clip in chosen)
    assert set(folds) == {1, 2, 3, 4, 5}
    assert max(folds.values()) - min(folds.values()) <= 20
    assert {clip.label for clip in chosen if clip.licence == "CC BY 3.0"} == esc50.ESC10
    assert Counter(clip.licence for clip in chosen) == {"CC BY-NC 3.0": 240, "CC BY 3.0": 60}


def test_choice_does_not_depend_on_the_order_of_the_table(data: Path, tmp_path: Path):
    head, *rows = (data / "ESC-50" / "meta" / "esc50.csv").read_text().splitlines()
    table = tmp_path / "ESC-50" / "meta" / "esc50.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join([head, *reversed(rows)]))
    ids = [{clip.id for clip in esc50.esc50(str(root), per_class=6)} for root in (data, tmp_path)]
    assert ids[0] == ids[1]
    assert ids[0] != {clip.id for clip in esc50.esc50(str(data), per_class=6, choice_seed=1)}


def test_epic_sounds_gives_a_thousand_segments_even_over_44_classes(data: Path):
    chosen = epic_sounds.epic_sounds(str(data))
    counts = Counter(clip.label for clip in chosen)
    assert (len(chosen), len(counts)) == (1_000, 44)
    every = Counter(clip.label for clip in epic_sounds.epic_sounds(str(data), clips=None))
    most = max(counts.values())
    for label, count in counts.items():
        # A class gives its even share, or all it has.
        assert count >= most - 1 or count == every[label]
    assert all(clip.span[1] - clip.span[0] >= 0.4 - 1e-9 for clip in chosen)
    assert {clip.licence for clip in chosen} == {"CC BY-NC 4.0"}


def test_within_a_class_segments_come_from_as_many_videos_as_can_be(data: Path):
    everything = epic_sounds.epic_sounds(str(data), clips=None)
    chosen = epic_sounds.epic_sounds(str(data))
    for label in ("water", "zip", "beep"):
        videos = {clip.source for clip in everything if clip.label == label}
        mine = [clip.source for clip in chosen if clip.label == label]
        assert len(set(mine)) == min(len(mine), len(videos))


def test_counts_of_the_paper_come_out_of_the_manifests(data: Path, tmp_path: Path):
    words = ["experiment=bnmusic/table1", "dataset=bnmusic", "music=musicbench", f"data.root={data}"]
    run = Run.of(compose([*words, f"run_dir={tmp_path}", f"store_dir={tmp_path / 'store'}"]))
    plan = prepare(run)
    assert Counter(pair.dataset for pair in plan.items) == {"epic_sounds": 5_000, "esc50": 2_100}
    assert run.task.notes == []
    assert len({pair.id for pair in plan.items}) == 7_100
    reference, played = run.task.reference(), plan.context.borrow("music").clips
    assert len(reference) + len(played) == 5_000
    assert abs(len(reference) - len(played)) <= 7
    for name, per_clip in (("epic_sounds", 5), ("esc50", 7)):
        pairs = [pair for pair in plan.items if pair.dataset == name]
        manifest = manifests.read(package_folder("blendbench.data_manifests") / f"{name}.json")
        assert manifest.expected["pairs"] == len(pairs)
        assert {pair.clip.id for pair in pairs} == {row["id"] for row in manifest.clips}
        genres = Counter((pair.clip.id, pair.prompt.genre) for pair in pairs)
        assert set(genres.values()) == {1}, "a clip meets a genre once"
        assert set(Counter(pair.clip.id for pair in pairs).values()) == {per_clip}
        of_genre = Counter(pair.prompt.genre for pair in pairs)
        assert max(of_genre.values()) - min(of_genre.values()) <= 1
        used = Counter(pair.prompt.id for pair in pairs)
        assert len(used) == 100


def test_musicbench_clips_come_from_distinct_tracks_and_from_no_copy(data: Path):
    chosen = musicbench.musicbench(str(data))
    assert len(chosen) == len({clip.source for clip in chosen}) == 5_000
    assert {clip.path.parent.name for clip in chosen} == {"data"}
    assert {clip.start for clip in chosen} == {0.0}
    assert {clip.genre for clip in chosen} == {"Jazz", "Punk", "Classical", ""}
    assert all(clip.caption for clip in chosen)
    halves = split_music(chosen, 0)
    assert not {clip.source for clip in halves[0]} & {clip.source for clip in halves[1]}


def test_fewer_tracks_give_second_clips_that_do_not_overlap(data: Path):
    chosen = musicbench.musicbench(str(data), tracks=3_413)
    assert (len(chosen), len({clip.source for clip in chosen})) == (5_000, 3_413)
    assert Counter(clip.start for clip in chosen) == {0.0: 3_413, 5.0: 1_587}
    assert len({clip.id for clip in chosen}) == 5_000
    halves = split_music(chosen, 0)
    assert not {clip.source for clip in halves[0]} & {clip.source for clip in halves[1]}


@pytest.mark.parametrize(
    ("name", "track", "copy"),
    [
        ("-0SdAVK79lg", "-0SdAVK79lg", 0),
        ("-0SdAVK79lg_1", "-0SdAVK79lg", 1),
        ("-0SdAVK79lg_12", "-0SdAVK79lg", 12),
        ("abcdefghi_1", "abcdefghi_1", 0),
        ("abcdefghi_1_2", "abcdefghi_1", 2),
        ("song_aug2", "song", 2),
        ("song_3", "song", 3),
        ("song", "song", 0),
    ],
)
def test_augmented_copies_are_told_by_their_names(name: str, track: str, copy: int):
    assert musicbench.track_of(name) == (track, copy)


def test_track_of_which_only_copies_are_there_gives_the_first(tmp_path: Path):
    rows = [{"location": f"data_aug2/ABCDEFGHIJK_{copy}.wav"} for copy in (3, 2, 10)]
    official.write_musicbench_table(tmp_path, [*rows, {"location": "data/LMNOPQRSTUV.wav"}])
    chosen = musicbench.musicbench(str(tmp_path))
    assert {clip.path.name for clip in chosen} == {"ABCDEFGHIJK_2.wav", "LMNOPQRSTUV.wav"}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("caption", "genre"),
    [
        ("A hip hop beat with jazzy samples", "Hip-hop"),
        ("Pop punk with fast guitars", "Punk"),
        ("This is a techno tune", "EDM"),
        ("A baroque harpsichord concerto", "Classical"),
        ("Soft rock ballad", "Rock"),
        ("A pop song", "Pop"),
        ("The popular rockets of a symphonist", ""),
        ("", ""),
    ],
)
def test_captions_tell_genres_by_whole_words(caption: str, genre: str):
    assert musicbench.genre_of(caption) == genre


def test_segment_is_read_from_hdf5_at_its_place_and_looped(data: Path):
    label = "water"
    clip = next(clip for clip in epic_sounds.epic_sounds(str(data)) if clip.label == label)
    chosen = {c.label: c for c in reversed(epic_sounds.epic_sounds(str(data)))}
    number = list(chosen).index(label)
    samples = round(clip.span[1] * 24_000) - round(clip.span[0] * 24_000)
    expected = audio.resample(torch.from_numpy(official.epic_sound(number, samples)), 24_000, 44_100)
    heard = reading.read_clip(clip, 5.0)
    length = min(len(heard), 5 * 44_100)
    assert length == min(len(expected), 5 * 44_100)
    middle = slice(500, length - 500)
    torch.testing.assert_close(heard[middle], expected[middle], atol=1e-5, rtol=0)
    ready = Noises(HEARD).read(clip)
    assert ready.shape == (5 * 44_100,)
    assert audio.integrated_loudness(ready, 44_100) == pytest.approx(-18, abs=0.01)


def test_context_takes_the_recording_around_the_segment(tmp_path: Path):
    clip = tone_clip(tmp_path, span=(4.0, 4.5), seconds=10)
    heard = reading.read_clip(clip, 2.0, "context")
    recording = ramp(10)
    window = audio.resample(recording[round(3.25 * 24_000) : round(5.25 * 24_000)], 24_000, 44_100)
    torch.testing.assert_close(heard, window, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("span", "window"), [((0.1, 0.6), (0.0, 2.0)), ((9.2, 9.9), (8.0, 10.0))])
def test_context_at_the_end_of_a_recording_moves_inwards(tmp_path: Path, span, window):
    heard = reading.read_clip(tone_clip(tmp_path, span=span, seconds=10), 2.0, "context")
    part = ramp(10)[round(window[0] * 24_000) : round(window[1] * 24_000)]
    torch.testing.assert_close(heard, audio.resample(part, 24_000, 44_100), atol=1e-6, rtol=0)


def test_context_of_a_recording_that_is_too_short_takes_all_of_it(tmp_path: Path):
    clip = tone_clip(tmp_path, span=(0.2, 0.7), seconds=1)
    heard = reading.read_clip(clip, 2.0, "context")
    assert len(heard) == 44_100
    assert Noises({**HEARD, "seconds": 2.0, "short_clip": "context"}).read(clip).shape == (2 * 44_100,)


@pytest.mark.parametrize("mode", ["loop", "context"])
def test_recording_that_ends_within_the_segment_is_refused(tmp_path: Path, mode: str):
    clip = tone_clip(tmp_path, span=(0.5, 2.0), seconds=1)
    with pytest.raises(ClipError, match=r"clip .*ends at 1\.000 s, within the segment"):
        reading.read_clip(clip, 5.0, mode)


def ramp(seconds: float) -> torch.Tensor:
    """A tone that swells, so that no two moments are alike; at 24 kHz."""
    time = np.arange(round(seconds * 24_000)) / 24_000
    return torch.from_numpy((0.05 * (1 + time) * np.sin(2 * np.pi * 440 * time)).astype(np.float32))


def tone_clip(folder: Path, span: tuple[float, float], seconds: float) -> NoiseClip:
    import soundfile

    path = folder / "recording.wav"
    soundfile.write(path, ramp(seconds).numpy(), 24_000, subtype="FLOAT")
    return NoiseClip("clip", path, "tone", "recording", span=span)


def test_folder_of_wavs_gives_the_same_sound_as_hdf5(data: Path, tmp_path: Path):
    import h5py
    import soundfile

    clip = next(clip for clip in epic_sounds.epic_sounds(str(data)) if clip.label == "zip")
    folder = tmp_path / "EPIC-SOUNDS"
    (folder / "audio").mkdir(parents=True)
    shutil.copy(data / "EPIC-SOUNDS" / "EPIC_Sounds_validation.csv", folder)
    with h5py.File(clip.path) as file:
        soundfile.write(folder / "audio" / f"{clip.source}.wav", file[clip.source][:], 24_000, subtype="FLOAT")
    again = next(c for c in epic_sounds.epic_sounds(str(tmp_path)) if c.id == clip.id)
    assert again.path.suffix == ".wav"
    assert torch.equal(reading.read_clip(clip, 5.0), reading.read_clip(again, 5.0))
    assert reading.content_of(clip, 5.0) == reading.content_of(again, 5.0) != ""


def test_segments_that_were_cut_out_already_are_found_by_their_ids(data: Path, tmp_path: Path):
    import soundfile

    folder = tmp_path / "EPIC-SOUNDS"
    (folder / "audio" / "P01").mkdir(parents=True)
    shutil.copy(data / "EPIC-SOUNDS" / "EPIC_Sounds_validation.csv", folder)
    chosen = epic_sounds.epic_sounds(str(data))
    clip = next(clip for clip in chosen if clip.label == "zip")
    heard = reading.read_clip(clip, 5.0)
    soundfile.write(folder / "audio" / "P01" / f"{clip.id}.wav", heard.numpy(), 44_100, subtype="FLOAT")
    again = epic_sounds.epic_sounds(str(tmp_path))
    assert [c.id for c in again] == [c.id for c in chosen]
    mine = next(c for c in again if c.id == clip.id)
    assert mine.span is None
    assert torch.equal(reading.read_clip(mine, 5.0), heard)


def test_a_run_over_epic_sounds_mixes_a_segment_of_every_class(data: Path, world, tmp_path: Path):
    words = ["dataset=epic_sounds", "limit=44", "arms.bnmusic=null", "arms.riffusion_a2a=null"]
    words += ["arms.musicgen_melody=null", "arms.random_music=null", "~presentations.loudness_normalized"]
    base = [word for word in world.words() if not word.startswith(("dataset", "data.root", "music"))]
    words += ["music=builtin", f"data.root={data}", f"run_dir={tmp_path / 'run'}"]
    assert call("run", "experiment=bnmusic/table1", *base, *words) == 0
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 44
    assert len({row["label"] for row in rows}) == 44
    sounding = {clip.id for clip in {c.label: c for c in reversed(epic_sounds.epic_sounds(str(data)))}.values()}
    for row in rows:
        assert (row["status"] == "ok") == (row["clip"] in sounding), row["reason"]
        assert row["status"] == "ok" or "silence" in row["reason"]


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ({"a": 10, "b": 10}, 10, {"a": 5, "b": 5}),
        ({"a": 1, "b": 10, "c": 10}, 10, {"a": 1, "b": 5, "c": 4}),
        ({"a": 1, "b": 2, "c": 9}, 9, {"a": 1, "b": 2, "c": 6}),
        ({"a": 2, "b": 3}, 99, {"a": 2, "b": 3}),
        ({"a": 2, "b": 3}, 1, {"a": 0, "b": 1}),
        ({}, 5, {}),
    ],
)
def test_quotas_share_a_total_out_as_evenly_as_sizes_allow(sizes, total, expected):
    assert quotas(sizes, total) == expected


def test_spread_takes_one_of_each_source_before_a_second():
    items = [(source, take) for source in "abc" for take in range(4)]
    ordered = spread(items, [lambda item: item[0]], 0, str)
    for turn in range(4):
        assert {source for source, _ in ordered[3 * turn : 3 * turn + 3]} == set("abc")


def test_shipped_manifests_are_those_of_the_rules(data: Path):
    folder = package_folder("blendbench.data_manifests")
    for name, options in (("esc50", "dataset"), ("epic_sounds", "dataset"), ("musicbench", "music")):
        entry = compose([f"{options}={name}", f"data.root={data}"])[options]
        entry = entry.get(name, entry)
        manifest = manifests.read(folder / f"{name}.json")
        assert manifest.rule == manifests.rule_of(entry)
        assert manifest.text
    digests = official.esc50_digests()
    for row in manifests.read(folder / "esc50.json").clips:
        assert row["digest"] == f"md5:{digests['audio/' + row['id'] + '.wav']}"


def test_built_in_data_are_what_their_manifests_say():
    settings = compose([])
    assert len(Sources.of(settings).dataset("builtin").clips) == 48
    assert len(Sources.of(settings).music.clips) == 98
    assert settings["dataset"]["builtin"]["manifest"] == "builtin_noise"


def esc50_settings(root: Path, *words: str) -> dict:
    return compose(["dataset=esc50", f"data.root={root}", *words])


def test_other_content_than_the_manifest_says_is_refused_by_name(data: Path, tmp_path: Path):
    shutil.copytree(data / "ESC-50", tmp_path / "ESC-50")
    chosen = Sources.of(esc50_settings(tmp_path)).dataset("esc50").clips
    official.write_clips(chosen[7:9])
    with pytest.raises(BlendbenchError) as raised:
        Sources.of(esc50_settings(tmp_path)).dataset("esc50")
    text = str(raised.value)
    assert "2 clips differ from manifest esc50" in text
    assert str(chosen[7].path) in text
    assert "dataset.esc50.manifest=null" in text
    assert len(Sources.of(esc50_settings(tmp_path, "dataset.esc50.manifest=null")).dataset("esc50").clips) == 300


def test_another_table_of_full_size_is_refused(data: Path, tmp_path: Path):
    table = tmp_path / "ESC-50" / "meta" / "esc50.csv"
    table.parent.mkdir(parents=True)
    shutil.copy(data / "ESC-50" / "meta" / "esc50.csv", table)
    gone = Sources.of(esc50_settings(tmp_path)).dataset("esc50").clips[0]
    table.write_text("".join(line for line in table.read_text().splitlines(True) if gone.path.name not in line))
    with pytest.raises(BlendbenchError, match=f"{gone.id} is missing from the table"):
        Sources.of(esc50_settings(tmp_path)).dataset("esc50")


def test_part_of_a_data_set_and_other_rules_are_not_held_against_the_manifest(data: Path, tmp_path: Path):
    table = tmp_path / "ESC-50" / "meta" / "esc50.csv"
    table.parent.mkdir(parents=True)
    lines = (data / "ESC-50" / "meta" / "esc50.csv").read_text().splitlines(True)
    table.write_text("".join(line for line in lines if ",dog," in line or "filename" in line))
    found = Sources.of(esc50_settings(tmp_path)).dataset("esc50")
    assert len(found.clips) == 6
    assert "6 of the 300 clips of manifest esc50" in found.note
    assert Sources.of(esc50_settings(data, "dataset.esc50.folds=[5]")).dataset("esc50").note == ""


def test_manifest_written_from_data_at_hand_is_then_held_against_them(world, tmp_path: Path, capsys):
    root, file = tmp_path / "data", tmp_path / "mine.json"
    shutil.copytree(world.root, root)
    assert call("data", "manifest", "esc50", f"data.root={root}", "--out", str(file)) == 0
    assert "5 clips, the content of 5" in capsys.readouterr().out
    manifest = manifests.read(file)
    assert manifest.name == "mine"
    assert manifest.expected == {"clips": 5, "classes": 2, "sources": 5, "pairs": 35}
    assert all(row["digest"].startswith("sha256:") for row in manifest.clips)
    strict = esc50_settings(root, f"dataset.esc50.manifest={file}")
    assert len(Sources.of(strict).dataset("esc50").clips) == 5
    clip = Sources.of(strict).dataset("esc50").clips[2]
    official.write_clips([clip])
    with pytest.raises(BlendbenchError, match=f"1 clips differ.*{clip.id}.*other content"):
        Sources.of(strict).dataset("esc50")
    run = world.with_root(root)
    assert run.run(tmp_path / "run", f"dataset.esc50.manifest={file}") == 1
    assert clip.id in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_manifests_of_the_other_sets_can_be_written(data: Path, world, tmp_path: Path, capsys):
    for name, words in {
        "epic_sounds": [f"data.root={data}"],
        "musicbench": [f"data.root={world.root}"],
        "music/builtin": [],
        "builtin": [],
        "folder": [f"data.path={world.root / 'ESC-50'}"],
        "music/folder": [f"data.music_path={world.root / 'MusicBench'}"],
    }.items():
        file = tmp_path / f"{name.replace('/', '-')}.json"
        assert call("data", "manifest", name, *words, "--out", str(file)) == 0
        manifest = manifests.read(file)
        assert manifest.clips
        assert manifest.expected["clips"] == len(manifest.clips)
    assert manifests.read(tmp_path / "epic_sounds.json").clips[0]["digest"].startswith("sha256:")
    assert json.loads((tmp_path / "builtin.json").read_text())["expected"]["pairs"] == 336


def test_check_tells_what_is_missing_by_class(data: Path, capsys):
    assert call("data", "check", "epic_sounds", f"data.root={data}") == 0
    out = capsys.readouterr().out
    assert "1000 clips of 44 classes, 5000 pairs" in out
    assert call("data", "check", "esc50", f"data.root={data}") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "300 clips of 50 classes, 2100 pairs; 300 cannot be heard" in lines[0]
    assert len(lines) == 51
    assert any("airplane" in line and "0 of 6 there" in line for line in lines)


def test_check_names_missing_and_short_recordings(data: Path, tmp_path: Path, capsys):
    import h5py

    folder = tmp_path / "EPIC-SOUNDS"
    folder.mkdir()
    shutil.copy(data / "EPIC-SOUNDS" / "EPIC_Sounds_validation.csv", folder)
    shutil.copy(data / "EPIC-SOUNDS" / "EPIC_audio.hdf5", folder)
    chosen = epic_sounds.epic_sounds(str(tmp_path))
    gone, short = "P01_11", "P01_14"
    with h5py.File(folder / "EPIC_audio.hdf5", "a") as file:
        del file[gone], file[short]
        file.create_dataset(short, data=np.zeros(24_000, "float32"))
    assert call("data", "check", "epic_sounds", f"data.root={tmp_path}") == 1
    out = capsys.readouterr().out
    lacking = [clip for clip in chosen if clip.source in (gone, short) and (clip.source == gone or clip.span[1] > 1.05)]
    assert f"{len(lacking)} cannot be heard" in out
    assert f"no recording {gone} in EPIC_audio.hdf5" in out
    assert f"recording {short} ends at 1.0 s" in out
    for label in {clip.label for clip in lacking}:
        assert f"  {label}" in out


def test_music_clip_is_read_from_its_start(tmp_path: Path):
    clip = tone_clip(tmp_path, span=(0, 1), seconds=8)
    heard = reading.read_music(MusicClip("m", clip.path, "", "", "m", start=5.0), 24_000, 2.0)
    torch.testing.assert_close(heard, ramp(8)[5 * 24_000 : 7 * 24_000])
