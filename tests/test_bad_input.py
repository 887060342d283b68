"""Sounds and settings as people really give them, good and bad, through `blendbench blend` and `blendbench run`."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile
from support import audio_corpus
from support.worlds import CHEAP, World, call, noise_sound, rows_of, write_esc50

BAD = {
    "missing.wav": "no such file",
    "text.wav": "not audio",
    "truncated.wav": "truncated",
    "zero_samples.wav": "0 samples",
    "short_0.2s.wav": r"lasts 0\.2 s",
    "silence.wav": "silence",
    "nan.wav": "NaN",
}
GOOD = (
    "wav_pcm_u8.wav",
    "wav_pcm_24.wav",
    "rate_96000.wav",
    "stereo.wav",
    "six_channels.wav",
    "hour_long.wav",
)
USAGE = {
    "unknown key": ("nonsense=1", "nonsense"),
    "unknown key of a group": ("mask.nonsense=1", r"mask\.nonsense"),
    "text for a whole number": ("seed=many", "seed"),
    "text for a fraction": ("mask.core_fraction=wide", r"mask\.core_fraction"),
    "a list for a number": ("amplification.alpha=[1,2]", r"amplification\.alpha"),
    "out of range": ("noise.seconds=0.1", r"noise\.seconds.*0\.1"),
    "zero pairs": ("limit=0", "limit"),
    "unknown option of a group": ("generator=nonsense", "generator.*nonsense.*pocket"),
    "unknown experiment": ("experiment=nonsense", "experiment.*nonsense.*bnmusic"),
    "no equals sign": ("limit", "limit"),
    "not Hydra's grammar": ("limit={", "limit"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name in (*BAD, *GOOD):
        audio_corpus.make(name, folder)
    return folder


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("blendbench: ")
    return lines[0]


def blend(world: World, noise: Path, out: Path, *words: str, prompt: str = "calm jazz piano") -> int:
    return call("blend", str(noise), "--prompt", prompt, "--out", str(out), *world.words(), *words)


@pytest.mark.parametrize("name", BAD)
def test_blend_of_a_bad_file_is_one_line_that_names_it(world, corpus, tmp_path, capsys, name):
    assert blend(world, corpus / name, tmp_path / "out") == 1
    line = one_line(capsys)
    assert name in line
    assert re.search(BAD[name], line)
    assert not (tmp_path / "out" / "mix.wav").exists()


@pytest.mark.parametrize("name", GOOD)
def test_blend_of_a_good_file_writes_noise_music_and_mix(world, corpus, tmp_path, capsys, name):
    # Random music needs no generator; the formats are the noise's.
    assert blend(world, corpus / name, tmp_path / "out", "method=random_music", "noise.seconds=5") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    channels = soundfile.info(tmp_path / "out" / "noise.wav").channels
    assert channels == (6 if "six" in name else channels)
    assert str(tmp_path / "out" / "mix.wav") in captured.out
    waves = {}
    for part in ("noise", "music", "mix"):
        waves[part], rate = soundfile.read(tmp_path / "out" / f"{part}.wav", always_2d=True)
        assert rate == 44_100
        assert waves[part].shape == (5 * 44_100, 1 if part == "music" else channels)
    assert abs(waves["mix"] - waves["noise"] - waves["music"]).max() < 1e-6
    assert abs(waves["mix"]).max() <= 1


def test_blend_by_bnmusic_tells_levels_times_and_recipe(world, tmp_path, capsys):
    noise = tmp_path / "Geräusch 1.wav"
    soundfile.write(noise, noise_sound(7), 44_100)
    out = tmp_path / "out"
    assert blend(world, noise, out, "method.griffin_lim_iterations=1", "seed=5") == 0
    capsys.readouterr()
    facts = json.loads((out / "blend.json").read_text(encoding="utf-8"))
    assert {"gain_db", "gain_db_unbounded", "bound", "noise_lufs", "music_lufs", "attenuation_db"} <= set(facts)
    assert facts["noise_lufs"] == pytest.approx(-18, abs=0.01)
    assert 0 <= facts["stage2_gain_db"] <= 6
    assert facts["music_lufs"] == pytest.approx(facts["noise_lufs"] + facts["stage2_gain_db"], abs=0.01)
    assert all(seconds >= 0 for seconds in facts["seconds"].values())
    assert {"outpaint_s", "inpaint_s", "vocode_s", "present_s"} <= set(facts["seconds"])
    recipe = facts["recipe"]
    assert (recipe["prompt"], recipe["seed"]) == ("calm jazz piano", 5)
    assert re.fullmatch("[0-9a-f]{12}", recipe["generator"]["checkpoint"])
    assert all((out / f"{name}.png").is_file() for name in ("noise", "core", "mid", "music"))


def test_blend_twice_is_the_same_to_the_bit(world, tmp_path, capsys):
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, noise_sound(3), 44_100)
    for out in ("a", "b"):
        assert blend(world, noise, tmp_path / out, "method=random_music") == 0
    assert (tmp_path / "a" / "mix.wav").read_bytes() == (tmp_path / "b" / "mix.wav").read_bytes()


@pytest.mark.parametrize("case", USAGE)
def test_blend_with_a_wrong_setting_is_wrong_usage(world, tmp_path, capsys, case):
    word, expected = USAGE[case]
    assert blend(world, tmp_path / "n.wav", tmp_path / "out", word) == 2
    assert re.search(expected, one_line(capsys))


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_blend_with_an_empty_prompt_names_the_prompt(world, corpus, tmp_path, capsys, prompt):
    assert blend(world, corpus / "stereo.wav", tmp_path / "out", prompt=prompt) in (1, 2)
    assert "--prompt" in one_line(capsys)


@pytest.mark.parametrize("words", [[], ["a.wav"], ["a.wav", "--prompt", "x"], ["--nonsense"]])
def test_blend_with_words_missing_is_wrong_usage(capsys, words):
    assert call("blend", *words) == 2
    assert "blendbench blend" in one_line(capsys)


def test_blend_into_a_folder_below_a_file_names_it_before_generating(world, corpus, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("blendbench.methods.random_music.RandomMusic.generate", lambda *_: pytest.fail("generated"))
    assert blend(world, corpus / "stereo.wav", tmp_path / "file" / "out", "method=random_music") == 1
    assert str(tmp_path / "file") in one_line(capsys)


@pytest.mark.parametrize("file", ["generator.checkpoint", "generator"])
def test_blend_without_a_generator_names_the_key_or_place(world, corpus, tmp_path, capsys, file):
    word = f"generator.checkpoint={tmp_path / 'nowhere'}"
    if file == "generator":
        shutil.copytree(world.generator, tmp_path / "broken")
        (tmp_path / "broken" / "unet" / "config.json").unlink()
        word = f"generator.checkpoint={tmp_path / 'broken'}"
    assert blend(world, corpus / "stereo.wav", tmp_path / "out", word) == 1
    assert "generator.checkpoint" in (line := one_line(capsys)) or str(tmp_path) in line


@pytest.fixture(scope="module")
def mixed(world, corpus, tmp_path_factory) -> tuple[World, Path]:
    """A run over an ESC-50 folder that holds good and bad files alike."""
    folder = tmp_path_factory.mktemp("mixed")
    audio = write_esc50(folder / "data", [*BAD, *GOOD])
    for name in (*BAD, *GOOD):
        if (corpus / name).exists():
            (audio / name).hardlink_to(corpus / name)
    (folder / "data" / "MusicBench").symlink_to(world.root / "MusicBench")
    there = world.with_root(folder / "data")
    assert there.run(folder / "run", *CHEAP, "dataset.esc50.prompts_per_clip=1") == 0
    return there, folder / "run"


@pytest.mark.parametrize("name", BAD)
def test_run_turns_a_bad_clip_into_failed_rows_that_name_it(mixed, name):
    rows = [row for row in rows_of(mixed[1]) if row["clip"] == Path(name).stem]
    assert len(rows) == 4
    for row in rows:
        assert row["status"] == "failed"
        assert name in row["reason"]
        assert re.search(BAD[name], row["reason"])
        assert "\n" not in row["reason"]
        assert "mix" not in row


@pytest.mark.parametrize("name", GOOD)
def test_run_mixes_a_good_clip_beside_bad_ones(mixed, name):
    rows = [row for row in rows_of(mixed[1]) if row["clip"] == Path(name).stem]
    assert len(rows) == 4
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", "")
        assert soundfile.info(mixed[1] / row["mix"]).frames == 5 * 44_100


def test_table_says_how_many_of_how_many_took_part(mixed):
    text = (mixed[1] / "table.md").read_text(encoding="utf-8")
    took_part = f"{len(GOOD)} of {len(GOOD) + len(BAD)}"
    assert f"esc50, noise_only: {took_part}" in text
    assert f"esc50, random_music: {took_part}" in text
    with (mixed[1] / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert (row["n"], row["n_failed"]) == (str(len(GOOD)), str(len(BAD)))


def test_report_tells_the_reasons(mixed):
    page = (mixed[1] / "report" / "index.html").read_text(encoding="utf-8")
    assert "truncated.wav: truncated" in page


def test_mended_clip_takes_part_in_the_next_run(mixed, tmp_path, capsys):
    there, run_dir = mixed
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.copytree(there.root, tmp_path / "data", symlinks=True)
    mended = tmp_path / "data" / "ESC-50" / "audio" / "missing.wav"
    soundfile.write(mended, noise_sound(9), 44_100)
    again = there.with_root(tmp_path / "data")
    assert again.run(tmp_path / "run", *CHEAP, "dataset.esc50.prompts_per_clip=1") == 0
    failed = {row["clip"] for row in rows_of(tmp_path / "run") if row["status"] == "failed"}
    assert failed == {Path(name).stem for name in BAD} - {"missing"}


@pytest.mark.parametrize("case", USAGE)
def test_run_with_a_wrong_setting_is_wrong_usage(world, tmp_path, capsys, case):
    word, expected = USAGE[case]
    assert world.run(tmp_path / "run", *CHEAP, word) == 2
    assert re.search(expected, one_line(capsys))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["run_dir", "store_dir"])
def test_run_into_a_folder_below_a_file_is_one_line_that_names_it(world, tmp_path, capsys, key):
    (tmp_path / "file").write_text("")
    assert world.run(tmp_path / "run", *CHEAP, "limit=1", f"{key}={tmp_path / 'file' / 'below'}") == 1
    assert str(tmp_path / "file") in one_line(capsys)


def test_run_without_an_experiment_says_which_key(world, tmp_path, capsys):
    assert call("run", *world.words(), f"run_dir={tmp_path / 'run'}") in (1, 2)
    assert "experiment=bnmusic/table1" in one_line(capsys)


def test_run_without_its_data_names_the_table_and_the_key(world, tmp_path, capsys):
    assert world.run(tmp_path / "run", *CHEAP, f"data.root={tmp_path}") == 1
    line = one_line(capsys)
    assert str(tmp_path / "ESC-50" / "meta" / "esc50.csv") in line
    assert "data.root" in line


@pytest.mark.parametrize("key", ["generator", "evaluator.fad"])
def test_run_without_a_model_stops_before_any_work(world, tmp_path, capsys, key):
    words = CHEAP if key == "evaluator.fad" else ("arms.riffusion_a2a=null",)
    assert world.run(tmp_path / "run", *words, "limit=1", f"{key}.checkpoint={tmp_path / 'nowhere'}") == 1
    assert str(tmp_path / "nowhere") in one_line(capsys)
    assert not (tmp_path / "run" / "mixes").exists()


def test_unknown_entry_of_a_method_names_the_arm(world, tmp_path, capsys):
    assert world.run(tmp_path / "run", *CHEAP, "+arms.random_music.nonsense=1") in (1, 2)
    assert re.search(r"arms\.random_music.*nonsense", one_line(capsys))


@pytest.mark.parametrize("target", ["os.system", "blendbenchx.y", "subprocess.run"])
def test_target_outside_the_package_is_refused(world, tmp_path, capsys, target):
    assert world.run(tmp_path / "run", *CHEAP, f"arms.random_music._target_={target}") == 1
    assert f"{target} is not allowed" in one_line(capsys)
