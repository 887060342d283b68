"""The run as a whole: what lies in its folder, what it does again and what it leaves alone."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.worlds import CHEAP, World, call, rows_of, untimed

from blendbench.datasets.esc50 import esc50
from blendbench.methods import bnmusic, musicgen_melody, noise_only, random_music, riffusion_a2a
from blendbench.runs.device import BatchSize
from blendbench.runs.folder import Run
from blendbench.runs.shelf import file_name
from blendbench.sound import audio, files
from blendbench.store.signature import file_hash
from blendbench.tasks.blend import noises as noises_of_a_run
from blendbench.tasks.blend.noises import Noises
from blendbench.tasks.blend.presentation import Blended

METHODS: dict[str, Any] = {
    "bnmusic": bnmusic.BNMusic,
    "riffusion_a2a": riffusion_a2a.RiffusionA2A,
    "musicgen_melody": musicgen_melody.MusicGenMelody,
    "random_music": random_music.RandomMusic,
    "noise_only": noise_only.NoiseOnly,
}
HEARD = {"seconds": 5.0, "lufs": -18.0, "short_clip": "loop"}
COLUMNS = {
    "pair_id", "arm", "dataset", "presentation", "status", "reason", "noise_lufs", "music_lufs", "gain_db", "mix",
    "sha256",
}  # fmt: skip


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    """Counts the pairs that each method is asked to make music for."""
    counts: collections.Counter = collections.Counter()
    for name, method in METHODS.items():

        def counted(self, items, name=name, generate=method.generate):
            counts[name] += len(items)
            return generate(self, items)

        monkeypatch.setattr(method, "generate", counted)
    return counts


@pytest.fixture
def copied(world: World, finished: Path, tmp_path: Path) -> tuple[World, Path]:
    """The finished run and its store, copied to where a test may change them."""
    shutil.copytree(finished, tmp_path / "run")
    return world.with_store(tmp_path / "store", copy=True), tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def same_outcome(run_dir: Path, finished: Path) -> None:
    assert untimed(rows_of(run_dir)) == untimed(rows_of(finished))
    assert (run_dir / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    for row in rows_of(run_dir):
        assert file_hash(run_dir / row["mix"]) == row["sha256"]


def test_every_pair_arm_and_presentation_has_one_row(finished):
    rows = rows_of(finished)
    keys = [(row["dataset"], row["arm"], row["presentation"], row["pair_id"]) for row in rows]
    pairs = {row["pair_id"] for row in rows}
    assert len(pairs) == 2
    assert sorted(keys) == sorted(
        ("esc50", arm, kind, pair) for arm in METHODS for kind in ("direct", "loudness_normalized") for pair in pairs
    )


def test_rows_have_the_columns_that_scripts_rely_on(finished):
    for row in rows_of(finished):
        assert set(row) >= COLUMNS
        assert (row["status"], row["reason"]) == ("ok", "")
        assert file_hash(finished / row["mix"]) == row["sha256"]
        assert not Path(row["mix"]).is_absolute()


def test_run_folder_holds_config_rows_results_tables_and_report(finished):
    for name in (
        "config.yaml",
        "pairs.jsonl",
        "results.csv",
        "table.md",
        "table.tex",
        "table.csv",
        "report/index.html",
    ):
        assert (finished / name).stat().st_size > 0


def clips_of(world):
    return {clip.id: clip for clip in esc50(str(world.root))}


def test_report_refers_to_every_mix_by_a_path_that_exists(finished):
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    for row in rows_of(finished):
        assert f'src="../{row["mix"]}"' in page
        assert (finished / "report" / ".." / row["mix"]).is_file()
    assert "http:" not in page
    assert "https:" not in page


def test_levels_measured_from_the_files_are_those_of_the_rows(world, finished):
    run, noises, noise_of = Run.open(finished), Noises(HEARD), clips_of(world)
    seen = set()
    for row in rows_of(finished):
        noise = noises.read(noise_of[row["clip"]])
        assert audio.integrated_loudness(noise, 44_100) == pytest.approx(-18, abs=0.02)
        assert row["noise_lufs"] == pytest.approx(-18, abs=0.02)
        music = run.heard(row) - noise
        if row["arm"] == "noise_only":
            assert music.abs().max() < 1e-5
            assert row["music_lufs"] is row["gain_db"] is None
            continue
        loudness = audio.integrated_loudness(music, 44_100)
        assert loudness == pytest.approx(row["music_lufs"], abs=0.1)
        if row["presentation"] == "loudness_normalized":
            assert loudness == pytest.approx(-18, abs=0.1)
        elif row["arm"] == "bnmusic":
            assert loudness == pytest.approx(-18 + row["stage2_gain_db"], abs=0.1)
            assert 0 <= row["stage2_gain_db"] <= 6
        else:
            assert row["gain_db"] == 0
        seen.add((row["arm"], row["presentation"]))
    assert len(seen) == 8


def test_presentations_of_a_pair_differ_by_one_gain_alone(world, finished):
    run, noises, noise_of, found = Run.open(finished), Noises(HEARD), clips_of(world), {}
    for row in rows_of(finished):
        if row["arm"] == "bnmusic":
            noise = noises.read(noise_of[row["clip"]])
            music = run.heard(row) - noise
            found[row["pair_id"], row["presentation"]] = music / audio.from_db(row["gain_db"])
    for pair in {pair for pair, _ in found}:
        torch.testing.assert_close(found[pair, "direct"], found[pair, "loudness_normalized"], atol=1e-4, rtol=0)


def test_finished_run_again_generates_nothing_and_rewrites_the_same_bytes(world, copied, generated):
    there, run_dir = copied
    before, before_times = contents(run_dir), times(run_dir)
    store_times = times(there.store)
    assert there.run(run_dir, "limit=2", "batch=1") == 0
    assert not generated
    after = contents(run_dir)
    # The store's place stands in the settings; all else is the same to the byte, but what tells of this very call.
    own = {"config.yaml", "finished.json", *(name for name in {*before, *after} if name.startswith("workers/"))}
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in before.items() if k not in own}
    kept = {name: stamp for name, stamp in times(run_dir).items() if name.startswith("mixes/")}
    assert kept == {name: stamp for name, stamp in before_times.items() if name.startswith("mixes/")}
    assert times(there.store) == store_times


def test_torn_row_and_missing_and_cut_mixes_are_made_good(copied, finished, generated):
    there, run_dir = copied
    lines = (run_dir / "pairs.jsonl").read_bytes().splitlines(keepends=True)
    rows = rows_of(run_dir)
    (run_dir / "pairs.jsonl").write_bytes(b"".join(lines[:-4]) + lines[-4][:50])
    (run_dir / rows[0]["mix"]).unlink()
    cut = run_dir / rows[1]["mix"]
    cut.write_bytes(cut.read_bytes()[:1000])
    (run_dir / "results.csv").unlink()
    assert there.run(run_dir, "limit=2", "batch=1") == 0
    assert not generated
    same_outcome(run_dir, finished)


def test_row_torn_within_a_character_is_made_good(copied, finished, generated):
    there, run_dir = copied
    with (run_dir / "pairs.jsonl").open("ab") as file:
        file.write(b'{"pair_id": "Ger\xc3')
    (run_dir / rows_of(finished)[0]["mix"]).unlink()
    assert there.run(run_dir, "limit=2", "batch=1") == 0
    assert not generated
    same_outcome(run_dir, finished)


def test_lost_music_is_generated_again_for_its_pair_alone(copied, finished, generated):
    there, run_dir = copied
    (music,) = [p.parent for p in there.store.glob("music/*/signature.json") if "BNMusic" in p.read_text()]
    victim = rows_of(finished)[0]
    (music / f"{file_name(victim['pair_id'])}.wav").unlink()
    shutil.rmtree(run_dir / "mixes" / "bnmusic")
    shutil.rmtree(there.store / "mixes")
    assert there.run(run_dir, "limit=2", "batch=1") == 0
    assert generated == {"bnmusic": 1}
    same_outcome(run_dir, finished)


def test_another_run_takes_the_mixes_of_the_store_and_reads_no_sound(copied, finished, generated, monkeypatch):
    there, run_dir = copied
    monkeypatch.setattr(Blended, "present", lambda *_: pytest.fail("mixed again"))
    monkeypatch.setattr(noises_of_a_run, "read_clip", lambda *_: pytest.fail("read again"))
    again = run_dir.with_name("again")
    assert there.run(again, "limit=2", "batch=1") == 0
    assert not generated
    assert untimed(rows_of(again)) == untimed(rows_of(finished))
    for row in rows_of(again):
        assert (again / row["mix"]).read_bytes() == (finished / row["mix"]).read_bytes()


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_mix_that_the_store_lost_is_mixed_again(copied, finished, generated, harm):
    there, run_dir = copied
    shutil.rmtree(run_dir)
    for file in (there.store / "mixes").rglob("*.flac"):
        data = file.read_bytes()
        file.unlink()
        if harm == "cut":
            file.write_bytes(data[:100])
    assert there.run(run_dir, "limit=2", "batch=1") == 0
    assert not generated
    same_outcome(run_dir, finished)


@pytest.mark.soak
def test_killed_run_goes_on_and_ends_like_an_undisturbed_one(world, finished, tmp_path, generated):
    fresh = world.with_store(tmp_path / "store")
    words = fresh.run_words(tmp_path / "run", "limit=2", "batch=1")
    rows = tmp_path / "run" / "pairs.jsonl"
    code = "import sys; from blendbench.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 240
        while not (rows.exists() and '"arm": "riffusion_a2a"' in rows.read_text(encoding="utf-8")):
            assert process.poll() is None, "ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "run" / "results.csv").exists()
    done = len(rows.read_text(encoding="utf-8").splitlines())
    assert 0 < done < 16
    assert fresh.run(tmp_path / "run", "limit=2", "batch=1") == 0
    assert 0 < generated.total() < 8
    same_outcome(tmp_path / "run", finished)
    assert not list((tmp_path / "run").rglob("*.part"))


def test_changed_alpha_reuses_the_music_and_mixes_bnmusic_anew(copied, finished, generated):
    there, run_dir = copied
    before = times(run_dir)
    assert there.run(run_dir, "limit=2", "batch=1", "amplification.alpha=0.3") == 0
    assert not generated
    for old, new in zip(rows_of(finished), rows_of(run_dir), strict=True):
        anew = (new["arm"], new["presentation"]) == ("bnmusic", "direct")
        assert (times(run_dir)[new["mix"]] != before[new["mix"]]) == anew
        assert (old["signature"] != new["signature"]) == anew
        if anew:
            assert new["alpha"] == 0.3
            # A heavier weight on the music's total never makes it louder.
            unbounded = [-999.0 if r["gain_db_unbounded"] is None else r["gain_db_unbounded"] for r in (old, new)]
            assert unbounded[1] < unbounded[0] or unbounded == [-999.0, -999.0]


def test_changed_core_fraction_regenerates_bnmusic_alone(copied, generated):
    there, run_dir = copied
    assert there.run(run_dir, "limit=1", "batch=1", "mask.core_fraction=0.1") == 0
    assert generated == {"bnmusic": 1}
    assert len(rows_of(run_dir)) == 10


def test_changed_prompt_or_noise_file_is_seen(copied, generated):
    there, run_dir = copied
    root = run_dir.parent / "data"
    shutil.copytree(there.root, root)
    clip = next(row["clip"] for row in rows_of(run_dir))
    wave, rate = files.read(root / "ESC-50" / "audio" / f"{clip}.wav"), 44_100
    files.write(root / "ESC-50" / "audio" / f"{clip}.wav", 0.5 * wave.flip(0), rate)
    affected = {row["pair_id"] for row in rows_of(run_dir) if row["clip"] == clip}
    assert there.with_root(root).run(run_dir, "limit=2", "batch=1", *CHEAP) == 0
    assert generated == {"random_music": len(affected), "noise_only": len(affected)}


def test_size_of_a_batch_changes_nothing(world, finished, tmp_path):
    fresh = world.with_store(tmp_path / "store")
    assert fresh.run(tmp_path / "run", "limit=2", "batch=2") == 0
    same_outcome(tmp_path / "run", finished)


def test_greater_limit_keeps_the_first_pairs(world, tmp_path, generated):
    fresh, run_dir = world.with_store(tmp_path / "store"), tmp_path / "run"
    assert fresh.run(run_dir, *CHEAP, "limit=2") == 0
    first, stamps = rows_of(run_dir), times(run_dir / "mixes")
    assert generated == {"random_music": 2, "noise_only": 2}
    assert fresh.run(run_dir, *CHEAP, "limit=4") == 0
    assert generated == {"random_music": 4, "noise_only": 4}
    rows = rows_of(run_dir)
    assert len(rows) == 16
    assert all(row in rows for row in first)
    assert stamps.items() <= times(run_dir / "mixes").items()
    assert fresh.run(run_dir, *CHEAP, "limit=2") == 0
    assert rows_of(run_dir) == first


def test_seed_changes_pairs_and_music(world, finished, tmp_path):
    assert world.run(tmp_path / "run", *CHEAP, "limit=2", "seed=1") == 0
    old = {row["sha256"] for row in rows_of(finished)}
    assert not old & {row["sha256"] for row in rows_of(tmp_path / "run") if row["arm"] == "random_music"}


def test_pair_that_a_method_fails_on_does_not_take_its_batch_along(world, tmp_path, monkeypatch, capsys):
    generate = random_music.RandomMusic.generate
    bad: list[str] = []

    def sometimes(self, items):
        bad.extend(item.item.id for item in items[:1] if not bad)
        if any(item.item.id in bad for item in items):
            raise RuntimeError("out of luck")
        return generate(self, items)

    fresh = world.with_store(tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr(random_music.RandomMusic, "generate", sometimes)
        assert fresh.run(tmp_path / "run", *CHEAP, "limit=4", "batch=4") == 0
    failed = [row for row in rows_of(tmp_path / "run") if row["status"] == "failed"]
    assert {(row["arm"], row["pair_id"]) for row in failed} == {("random_music", bad[0])}
    assert all(row["reason"] == "RuntimeError: out of luck" for row in failed)
    assert len(failed) == 2
    # The method's fault, not the clip's: tried again the next time.
    assert fresh.run(tmp_path / "run", *CHEAP, "limit=4", "batch=4") == 0
    assert all(row["status"] == "ok" for row in rows_of(tmp_path / "run"))


def test_an_arm_whose_checkpoint_is_missing_stops_the_run_before_any_work(world, tmp_path, capsys):
    words = (f"generator.musicgen.checkpoint={tmp_path / 'gone'}", "limit=1")
    assert world.run(tmp_path / "run", *words) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "generator.musicgen.checkpoint=" in line
    assert line.endswith("or leave the arm out: arms.musicgen_melody=null")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_batch_that_does_not_fit_is_halved_and_no_pair_is_lost(world, tmp_path, monkeypatch, capsys, error):
    generate = random_music.RandomMusic.generate
    sizes: list[int] = []

    def greedy(self, items):
        sizes.append(len(items))
        if len(items) > 2:
            raise error
        return generate(self, items)

    fresh = world.with_store(tmp_path / "store")
    monkeypatch.setattr(random_music.RandomMusic, "generate", greedy)
    assert fresh.run(tmp_path / "run", *CHEAP, "limit=6", "batch=5") == 0
    assert all(row["status"] == "ok" for row in rows_of(tmp_path / "run"))
    # Two halvings within the first batch, then no more tries with what did not fit.
    assert sizes == [5, 2, 2, 1, 1]
    assert "5 pairs at once do not fit into memory; going on with 2" in capsys.readouterr().err


def test_a_batch_takes_what_fits_into_four_fifths_of_the_memory():
    size = BatchSize("auto", "cpu")
    assert size.size == 2
    for free, a_pair, expected in ((100, 10, 8), (100, 60, 1), (10**6, 1, 32), (100, 0, 32), (0, 10, 1)):
        size.fit(free, a_pair)
        assert size.size == expected
    size.fit(100, 10)
    size.halve(8)
    assert size.size == 4
    size.halve(4)
    size.halve(2)
    size.halve(1)
    assert size.size == 1


def test_music_that_is_not_finite_becomes_a_failed_row(world, tmp_path, monkeypatch):
    generate = random_music.RandomMusic.generate

    def broken(self, items):
        made = generate(self, items)
        made[0].waveform[10] = float("nan")
        return made

    monkeypatch.setattr(random_music.RandomMusic, "generate", broken)
    fresh = world.with_store(tmp_path / "store")
    assert fresh.run(tmp_path / "run", *CHEAP, "limit=2", "batch=2") == 0
    failed = [row for row in rows_of(tmp_path / "run") if row["status"] == "failed"]
    assert len(failed) == 2
    assert all("not finite" in row["reason"] for row in failed)


def test_run_without_any_sound_pair_fails_and_still_writes_its_table(world, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(world.root, root)
    for clip in (root / "ESC-50" / "audio").iterdir():
        clip.write_text("no sound")
    assert world.with_root(root).run(tmp_path / "run", *CHEAP, "limit=2") == 1
    assert "8 of 8 rows failed" in capsys.readouterr().err
    assert "failed" in (tmp_path / "run" / "table.csv").read_text()


def test_default_folder_is_found_again_by_the_same_command(world, tmp_path, monkeypatch, generated):
    monkeypatch.chdir(tmp_path)
    words = [word for word in world.run_words(Path("x"), *CHEAP, "limit=1") if not word.startswith("run_dir=")]
    assert call(*words) == call(*words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bnmusic-table1-esc50-")
    assert generated["random_music"] <= 1


def test_sweep_makes_a_folder_a_job(world, finished, tmp_path, monkeypatch, capsys, generated):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    words = [word for word in world.run_words(Path("x"), "limit=1", "batch=1") if not word.startswith("run_dir=")]
    assert call(*words, "amplification.alpha=0.1,0.3", "-m") == 0
    folders = [path.parent for path in (tmp_path / "runs").glob("*/pairs.jsonl")]
    assert len(folders) == 2
    alphas = {row["alpha"] for folder in folders for row in rows_of(folder) if "alpha" in row}
    assert alphas == {0.1, 0.3}
    assert not generated
    # Its page is made when somebody wants to hear a job.
    assert not any((folder / "report").exists() for folder in folders)
    assert call("report", str(folders[0])) == 0
    assert (folders[0] / "report" / "index.html").is_file()


@pytest.mark.soak
def test_sweep_by_a_launcher_of_hydra_ends_in_the_same_table(world, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    for place, words in (("plain", ()), ("joblib", launcher)):
        assert world.run(tmp_path / place, *CHEAP, "limit=2", "seed=0,1", "threads=1", *words, "-m") == 0
        assert len(list((tmp_path / place).glob("*/results.csv"))) == 2
    for name in ("sweep.csv", "table.md"):
        assert (tmp_path / "joblib" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert not list((tmp_path / "runs" / "sweeps").glob(".jobs*"))


def test_sweep_with_a_run_folder_makes_a_folder_a_job_below_it(world, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert world.run(tmp_path / "here", *CHEAP, "limit=1", "seed=0,1", "-m") == 0
    assert len(list((tmp_path / "here").glob("*/results.csv"))) == 2


@pytest.mark.parametrize("identifier", ["a/b", "..", ".hidden", "ü", "x" * 400, "a\nb", "c:d", "%s {}"])
def test_file_names_are_plain_short_and_distinct(identifier):
    name = file_name(identifier)
    assert name != file_name(identifier + "2")
    assert len(name) <= 150
    assert name.isascii()
    assert not name.startswith(".")
    assert "/" not in name and "\n" not in name
    json.dumps(name)


def test_plain_identifier_is_its_own_file_name():
    assert file_name("esc50--1-100000-A-0--pop_03") == "esc50--1-100000-A-0--pop_03"
