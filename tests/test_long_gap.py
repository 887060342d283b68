"""The long-gap task from end to end: published and built-in recordings, and what run, table and page say of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from support.stimuli import GAP, PIECES, ROOT, stimulus
from support.worlds import WITHOUT_PRIOR, call

from blendbench.composing import compose
from blendbench.errors import BlendbenchError, ClipError
from blendbench.runs.folder import Run
from blendbench.tasks import Music, Withheld
from blendbench.tasks.long_gap.distances import context_snr, guide_snr, log_spectral_distance
from blendbench.tasks.long_gap.task import Incomplete, LongGap, Pasted


def task_of(*words: str) -> LongGap:
    task = Run.of(compose(["task=long_gap", "run_dir=none", *words])).task
    assert isinstance(task, LongGap)
    return task


def run(run_dir: Path, *words: str) -> int:
    own = (f"run_dir={run_dir}", f"store_dir={run_dir.parent / 'store'}", "statistics.resamples=50")
    return call("run", *own, *WITHOUT_PRIOR, *words)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two of the built-in pieces."""
    run_dir = tmp_path_factory.mktemp("pieces") / "run"
    assert run(run_dir, "experiment=simdps/objective", "limit=2") == 0
    return run_dir


@pytest.fixture(scope="module")
def excerpts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the published excerpts."""
    stimulus(PIECES[0], "Original")
    run_dir = tmp_path_factory.mktemp("excerpts") / "run"
    assert run(run_dir, "experiment=simdps/stimuli", f"data.root={ROOT}") == 0
    return run_dir


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


# What is given


def test_a_method_is_given_the_window_with_silence_in_the_gap_and_the_rest_of_the_track():
    task = task_of()
    item = task.items(None)[0]
    given = task.read(item)
    assert isinstance(given, Incomplete)
    assert len(given.recording) == given.samples == 262_144
    assert not given.recording[GAP.start : GAP.stop].any()
    assert torch.equal(given.recording[: GAP.start], given.original[: GAP.start])
    before, after = given.corpus
    start = round(item.clip.start * 44_100)
    whole = soundfile.read(item.clip.path, dtype="float32")[0]
    assert len(before) == start + GAP.start and len(before) + len(after) + GAP.length == len(whole)
    assert np.array_equal(after.numpy(), whole[start + GAP.stop :])


def test_the_original_is_kept_from_every_method():
    given = task_of().read(task_of().items(1)[0])
    assert isinstance(given, Incomplete)
    handed = given.only(("recording", "gap", "corpus"))
    assert isinstance(handed.original, Withheld) and handed.recording is given.recording
    with pytest.raises(BlendbenchError, match="`takes` does not name"):
        _ = handed.original.shape


def test_other_recordings_may_be_the_corpus():
    task = task_of("gap.corpus=others")
    given = task.read(task.items(None)[0])
    assert isinstance(given, Incomplete) and len(given.corpus) == 5


def test_built_in_windows_lie_at_the_published_level():
    task = task_of()
    levels = [float(given.original.square().mean().sqrt()) for item in task.items(None)
              if isinstance(given := task.read(item), Incomplete)]  # fmt: skip
    assert len(levels) == 6
    assert all(0.05 < level < 0.06 for level in levels)


def test_a_window_beyond_the_recordings_end_is_told(tmp_path):
    soundfile.write(tmp_path / "short.wav", 0.1 * np.random.default_rng(0).standard_normal(100_000), 44_100)
    task = task_of("dataset=recordings", f"data.path={tmp_path}")
    found = task.read(task.items(None)[0])
    assert isinstance(found, ClipError) and "short" in str(found) and "100000 samples" in str(found)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("gap.start=0", "gap.start: 0 is out of range; use 1 or more, before gap.stop"),
        ("gap.stop=85197", "gap.start: 85197 is out of range"),
        ("gap.stop=262144", "gap.stop: 262144 is out of range"),
        ("gap.corpus=radio", "gap.corpus: 'radio' is out of range; use track, others, both, none"),
        ("noise.seconds=3", "noise"),
        ("gap.hop=3", "hop"),
    ],
)
def test_wrong_keys_are_one_line(tmp_path, capsys, word, told):
    assert run(tmp_path / "run", "experiment=simdps/objective", word) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_a_method_that_takes_noise_is_refused_here(tmp_path, capsys):
    words = (
        "experiment=simdps/objective",
        "+arms.bn={_target_: blendbench.methods.riffusion_a2a.RiffusionA2A, label: A, sampling: {}}",
    )
    assert run(tmp_path / "run", *words) == 1
    assert "arms.bn: takes noise, text, which this task does not give" in capsys.readouterr().err


# Presentations


def test_what_is_pasted_changes_the_gap_and_440_samples_a_side():
    task = task_of()
    given = task.read(task.items(1)[0])
    assert isinstance(given, Incomplete)
    other = torch.randn(given.samples, generator=torch.Generator().manual_seed(0))
    heard = Pasted().present(given, Music(other), None).waveform
    changed = (heard != given.original).nonzero()[:, 0]
    assert changed[0] == GAP.start - 440 and changed[-1] == GAP.stop + 439
    assert torch.equal(heard[GAP.start : GAP.stop], other[GAP.start : GAP.stop])


# Runs


def test_pieces_are_filled_measured_and_shown(pieces):
    rows = rows_of(pieces)
    assert len(rows) == 2 * 2 * 2 and {row["status"] for row in rows} == {"ok"}
    assert set(rows[0]) >= {"excerpt", "recording", "genre", "sha256", "attenuation_db"}
    scores = pd.read_csv(pieces / "scores.csv")
    assert list(scores.columns[-4:]) == ["lsd", "guide_snr", "context_snr", "far_context_snr"]
    first = rows[0]
    task = task_of()
    given = task.given(first)
    heard = Run.open(pieces).heard(first)
    score = scores[(scores.pair_id == first["pair_id"]) & (scores.arm == first["arm"])
                   & (scores.presentation == first["presentation"])].iloc[0]  # fmt: skip
    assert score["lsd"] == pytest.approx(log_spectral_distance(given.original, heard, GAP), rel=1e-4)
    near = min(120.0, context_snr(given.original, heard, GAP))
    assert score["context_snr"] == pytest.approx(near, rel=1e-4)
    table = (pieces / "table.md").read_text(encoding="utf-8")
    assert "| LPC " in table and "| recording, gap " in table and "Pasted: LSD" in table
    assert "bootstrap over recordings" in table and "Excerpts that took part" in table


def test_the_page_plays_the_original_the_gap_and_every_result(pieces):
    data = json.loads((pieces / "report" / "data.js").read_text(encoding="utf-8").removeprefix("const REPORT = ")[:-2])
    assert data["shared"] == {"original": "Original", "degraded": "With the gap"} and data["own"] == {}
    assert data["whole"] == "result" and data["called"] == "excerpts"
    for item in data["pairs"]:
        assert set(item["shared"]) == {"original", "degraded"} and not item["note"]
        assert [set(cell) for line in item["sounds"] for cell in line] == [{"mix"}] * 4
        original = soundfile.read(pieces / "report" / item["shared"]["original"]["src"])[0]
        assert len(original) == 262_144
    page = (pieces / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="by-genre"' in page and 'id="by-label"' not in page and "2 excerpts, 2 methods" in page


def test_sim_finds_music_nearer_than_linear_prediction(pieces):
    means = pd.read_csv(pieces / "results.csv").set_index(["presentation", "arm", "metric"])["value"]
    assert means["pasted", "sim", "lsd"] < means["pasted", "lpc", "lsd"] - 2
    assert means["pasted", "sim", "far_context_snr"] == 120  # bit by bit, beyond the cross-fade


def test_workers_make_the_same_rows(pieces, tmp_path):
    words = ("experiment=simdps/objective", "limit=2", "executor=local", "executor.workers_per_device=2")
    assert run(tmp_path / "run", *words, "report=false") == 0

    def untimed(run_dir: Path) -> list[dict]:
        return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in rows_of(run_dir)]

    assert untimed(tmp_path / "run") == untimed(pieces)
    assert (tmp_path / "run" / "results.csv").read_bytes() == (pieces / "results.csv").read_bytes()


def test_a_run_goes_on_where_it_was(pieces, tmp_path):
    shutil.copytree(pieces, tmp_path / "run")
    shutil.copytree(pieces.parent / "store", tmp_path / "store")
    lines = (tmp_path / "run" / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "run" / "pairs.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    music = sorted((tmp_path / "store" / "music").rglob("*.wav"))
    before = [file.stat().st_mtime_ns for file in music]
    assert run(tmp_path / "run", "experiment=simdps/objective", "limit=2") == 0
    assert [file.stat().st_mtime_ns for file in music] == before  # nothing was made again
    assert rows_of(tmp_path / "run") == rows_of(pieces)


# The published excerpts


def test_published_results_are_measured_as_they_should_be(excerpts):
    scores = pd.read_csv(excerpts / "scores.csv")
    scores = scores[scores.presentation == "as_made"].set_index(["excerpt", "arm"])["lsd"]
    expected = {
        "Piano-1": {"lpc": 6.94, "dps": 6.32, "sim": 4.09, "strict": 4.19, "relaxed": 6.55},
        "Piano-2": {"lpc": 10.92, "dps": 6.71, "sim": 5.26, "strict": 5.41, "relaxed": 5.67},
    }
    for piece, values in expected.items():
        for arm, value in values.items():
            assert scores[piece, f"published_{arm}"] == pytest.approx(value, abs=0.01)


def test_our_lpc_is_the_published_one_as_far_as_16_bits_tell(excerpts):
    opened = Run.open(excerpts)
    for row in opened.rows():
        if row["arm"] == "lpc" and row["presentation"] == "as_made":
            theirs, ours = stimulus(row["excerpt"], "LPC"), opened.heard(row)
            assert guide_snr(theirs, ours, GAP) > 20
            both = torch.stack([theirs, ours])[:, GAP.start : GAP.stop]
            assert torch.corrcoef(both)[0, 1] > 0.995


def test_published_files_of_another_length_fail_their_rows_alone(tmp_path, capsys):
    folder = tmp_path / "SimDPS-stimuli" / "Piano-9"
    folder.mkdir(parents=True)
    noise = 0.05 * np.random.default_rng(1).standard_normal(262_144)
    soundfile.write(folder / "Original.flac", noise, 44_100)
    for name in ("LPC", "Sim", "DPS", "SimDPS-Relaxed"):
        soundfile.write(folder / f"{name}.flac", noise[:1000] if name == "LPC" else noise, 44_100)
    words = ("experiment=simdps/stimuli", f"data.root={tmp_path}", "report=false", "arms.lpc=null", "arms.sim=null")
    assert run(tmp_path / "run", *words) == 0
    failed = {row["arm"]: row["reason"] for row in rows_of(tmp_path / "run") if row["status"] != "ok"}
    assert "LPC.flac" in failed["published_lpc"] and "SimDPS-Strict.flac: no such file" in failed["published_strict"]
    assert set(failed) == {"published_lpc", "published_strict"}


def test_a_changed_recording_is_not_taken_for_the_one_that_was_heard(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    draw = np.random.default_rng(2)
    soundfile.write(folder / "a.wav", 0.1 * draw.standard_normal(300_000), 44_100)
    words = ("experiment=simdps/objective", "dataset=recordings", f"data.path={folder}", "report=false")
    assert run(tmp_path / "run", *words, "arms.sim=null") == 0
    soundfile.write(folder / "a.wav", 0.1 * draw.standard_normal(300_000), 44_100)
    row = rows_of(tmp_path / "run")[0]
    with pytest.raises(BlendbenchError, match="is not what the run heard"):
        Run.open(tmp_path / "run").parts(row)
