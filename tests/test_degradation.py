"""Real music made worse in known ways, and how a judge's answers are told."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from support import bundles
from support.worlds import call, rows_of

from blendbench.errors import BlendbenchError
from blendbench.methods.degraded import Degraded

RATE = 44_100


def given(seed: int = 7, seconds: float = 5.0) -> SimpleNamespace:
    draw = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    recording, noise, other = (0.1 * torch.randn(samples, generator=draw) for _ in range(3))
    return SimpleNamespace(seed=seed, samples=samples, recording=recording, noise=3 * noise, other=other)


def made(kind: str, strength: float, one: SimpleNamespace) -> torch.Tensor:
    method = Degraded("x", kind, strength)
    method.prepare(SimpleNamespace(sample_rate=RATE))  # type: ignore[arg-type]
    (music,) = method.generate([one])  # type: ignore[list-item]
    assert music.waveform.shape == (one.samples,)
    return music.waveform


def power(wave: torch.Tensor) -> float:
    return float(wave.double().square().mean())


@pytest.mark.parametrize("decibels", [-15.0, 0.0, 7.5])
def test_noise_lies_so_far_above_the_music(decibels):
    one = given()
    added = made("noise", decibels, one) - one.recording
    ratio = 10 * torch.log10(torch.tensor(power(added) / power(one.recording)))
    assert float(ratio) == pytest.approx(decibels, abs=1e-3)


def test_low_pass_takes_what_lies_above_and_leaves_what_lies_below():
    one = given()
    spectrum, whole = (torch.fft.rfft(wave).abs() for wave in (made("low_pass", 2000.0, one), one.recording))
    hertz = torch.fft.rfftfreq(one.samples, 1 / RATE)
    assert float(spectrum[hertz > 2100].max()) < 1e-3 * float(whole.max())
    torch.testing.assert_close(spectrum[hertz < 1890], whole[hertz < 1890], atol=1e-3, rtol=1e-3)


def test_gain_and_nothing():
    one = given()
    torch.testing.assert_close(made("gain", -12.0, one), one.recording * 0.251189)
    assert torch.equal(made("none", 0.0, one), one.recording)


def test_stretching_keeps_the_pitch_and_slows_the_beat():
    one = given(seconds=4.0)
    time = torch.arange(one.samples) / RATE
    clicks = (time % 0.5 < 0.05).float()
    one.recording = 0.3 * torch.sin(2 * torch.pi * 440 * time) * clicks
    slow = made("stretch", 2.0, one)
    assert abs(float(torch.fft.rfft(slow).abs().argmax()) / 4.0 - 440) < 8
    # Clicks at 0, 1, 2, 3 s, and silence between.
    level = [power(slow[round((at - 0.02) * RATE) : round((at + 0.12) * RATE)]) for at in (1.0, 2.0, 3.0)]
    between = [power(slow[round(at * RATE) : round((at + 0.1) * RATE)]) for at in (0.5, 1.5, 2.5)]
    assert min(level) > 30 * max(between)


@pytest.mark.parametrize(("share", "moved"), [(0.0, 0), (0.4, 4), (1.0, 10)])
def test_shuffled_pieces_are_the_same_ones_elsewhere(share, moved):
    one = given()
    length = RATE // 2
    pieces, before = (wave.split(length) for wave in (made("shuffle", share, one), one.recording))
    middle = slice(500, length - 500)
    at = [next(i for i, old in enumerate(before) if torch.equal(old[middle], new[middle])) for new in pieces]
    assert sorted(at) == list(range(10))
    assert sum(place != i for i, place in enumerate(at)) == moved


def test_more_and_more_clips_are_of_another_genre():
    replaced = []
    for share in (0.0, 0.3, 0.7, 1.0):
        some = [given(seed=seed, seconds=0.1) for seed in range(0, 100_000, 501)]
        replaced.append({one.seed for one in some if torch.equal(made("other_genre", share, one), one.other)})
    assert [len(one) / 200 for one in replaced] == [0.0, pytest.approx(0.3, abs=0.1), pytest.approx(0.7, abs=0.1), 1.0]
    assert replaced[0] <= replaced[1] <= replaced[2] <= replaced[3]


@pytest.mark.parametrize(
    ("kind", "strength", "reason"),
    [("louder", 1.0, "kind=louder: use none, noise,"), ("low_pass", 0.0, "strength=0: give a number above 0"),
     ("stretch", -1.0, "strength=-1"), ("shuffle", 2.0, "strength=2: give a share of 0 to 1")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(kind, strength, reason):
    with pytest.raises(BlendbenchError, match=reason):
        Degraded("x", kind, strength)


def words(world, run_dir: Path, *more: str) -> list[str]:
    return [
        "run", "experiment=bnmusic/judge_check", "dataset=esc50", "music=musicbench",
        "music.excerpt_seconds=5.0", f"data.root={world.root}",
        f"store_dir={world.store}", f"evaluator.fad.checkpoint={world.evaluator}", "statistics.resamples=20",
        "degradation.seconds=4", f"run_dir={run_dir}", "report=false", *more,
    ]  # fmt: skip


@pytest.mark.soak
def test_every_judge_answers_every_degradation(world, tmp_path):
    checkpoint = f"judges.musicnn.fad.checkpoint={bundles.musicnn_folder(tmp_path)}"
    assert call(*words(world, tmp_path / "run", checkpoint, "limit=4")) == 0
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 4 * 31 and {row["status"] for row in rows} == {"ok"}
    table = pd.read_csv(tmp_path / "run" / "figures" / "judge_check.csv")
    assert len(table) == 7 * 4  # gain up and gain down apart, two metrics, two judges
    assert set(table["metric"]) == {"fad", "fad_musicnn", "kl", "kl_musicnn"}
    with Image.open(tmp_path / "run" / "figures" / "judge_check.png") as image:
        assert image.size > (1000, 500)


def test_the_response_is_that_of_the_values(world, tmp_path):
    some = ["noise_1", "noise_5", "gain_1", "gain_5"]
    arms = [f"arms.{kind}_{number}=null" for kind in ("noise", "low_pass", "gain", "stretch", "shuffle", "other_genre")
            for number in range(1, 6) if f"{kind}_{number}" not in some]  # fmt: skip
    assert call(*words(world, tmp_path / "run", *arms, "~judges", "limit=5")) == 0
    table = pd.read_csv(tmp_path / "run" / "figures" / "judge_check.csv").set_index(["metric", "degradation"])
    results = pd.read_csv(tmp_path / "run" / "results.csv").set_index(["metric", "arm"])["value"]
    assert list(table.index) == [(m, d) for m in ("fad", "kl") for d in ("noise", "gain_down", "gain_up")]
    for metric in ("fad", "kl"):
        line = table.loc[metric, "noise"]
        assert line["value_clean"] == results[metric, "clean"]
        assert [line["value_weakest"], line["value_strongest"]] == [results[metric, f"noise_{n}"] for n in (1, 5)]
        rising = results[metric, "clean"] < results[metric, "noise_1"] < results[metric, "noise_5"]
        assert bool(line["monotone"]) == rising == (line["tau"] == 1)
        worse = results[metric, "noise_5"] > results[metric, "clean"]
        assert (line["effect_strongest"] > 0) == worse
        if worse:
            needed = 5 * (2 / line["effect_strongest"]) ** 2
            assert line["clips_needed_strongest"] == pytest.approx(needed, rel=0.05, abs=1)


def test_a_genre_that_the_music_lacks_is_told(world, tmp_path):
    more = ["~judges", "limit=2", "degradation.other_genre=Polka"]
    assert call(*words(world, tmp_path / "run", *more)) == 1
    for row in rows_of(tmp_path / "run"):
        assert row["reason"].endswith("the music has no clip of degradation.other_genre=Polka; name one it has")


def test_a_clip_whose_file_is_gone_is_a_failed_row_and_the_run_goes_on(world, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(world.root, root)
    there = world.with_root(root)
    arms = [f"arms.{kind}_{number}=null" for kind in ("noise", "low_pass", "gain", "stretch", "shuffle", "other_genre")
            for number in range(1, 6)]  # fmt: skip
    assert call(*words(there, tmp_path / "plan", *arms, "~judges", "limit=5")) == 0
    # Every clip of the other genre stands in for others, too.
    lost = next(row["clip"] for row in rows_of(tmp_path / "plan") if row["genre"] != "Classical")
    (file,) = root.rglob(f"{lost.partition('@')[0]}.ogg")
    file.unlink()
    assert call(*words(there, tmp_path / "run", *arms, "~judges", "limit=5")) == 0
    failed = {row["clip"] for row in rows_of(tmp_path / "run") if row["status"] == "failed"}
    assert failed == {lost}
