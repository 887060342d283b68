"""What `results.csv` and the tables say, held against figures computed anew from the mixes on disk."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import transformers
from support.tiny_models import tiny_tokenizer
from support.worlds import CHEAP, GENRES, call, rows_of

from blendbench import session, texts
from blendbench.datasets.choosing import split_music
from blendbench.datasets.musicbench import musicbench
from blendbench.errors import BlendbenchError
from blendbench.evaluators.encodec import EnCodec
from blendbench.metrics import divergence, frechet
from blendbench.models.tagger import Tagger
from blendbench.reports import tables
from blendbench.reports.page import write as write_page
from blendbench.runs.folder import Run
from blendbench.sound import audio, files

PAPER = {("noise_only", "direct", "fad"): 27.39, ("bnmusic", "direct", "kl"): 2.14, ("bnmusic", "direct", "fad"): 6.76}


@pytest.fixture(scope="module")
def table(finished: Path) -> pd.DataFrame:
    return pd.read_csv(finished / "results.csv")


@pytest.fixture(scope="module")
def scored(world, finished):
    """Embeddings and logits by cell and of the reference, straight from the files."""
    tagger = Tagger.load(world.evaluator)

    def score(path: Path, gain: float = 1.0):
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0]) * gain
        wave = wave.repeat(math.ceil(5 * 44_100 / len(wave)))[: 5 * 44_100]
        with torch.inference_mode():
            return tagger(wave[None])

    cells: dict = {}
    for row in rows_of(finished):
        cell = cells.setdefault((row["arm"], row["presentation"]), [])
        cell.append((row["genre"], *score(finished / row["mix"], 10 ** (row["attenuation_db"] / 20))))
    half, _ = split_music(musicbench(str(world.root), excerpt_seconds=5.0), 0)
    return cells, {clip.genre: score(clip.path) for clip in half}


def value(table: pd.DataFrame, arm: str, presentation: str, metric: str, column: str = "value"):
    match = table[(table.arm == arm) & (table.presentation == presentation) & (table.metric == metric)]
    assert len(match) == 1
    return match[column].iloc[0]


def nuclear_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two small samples; tr sqrt(C_a C_b) is the nuclear norm of the product of their roots."""
    root_a, root_b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross


def test_columns_stand_in_their_order(table):
    assert list(table.columns) == [
        "experiment", "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "n", "n_failed",
        "paper_value", "recipe",
    ]  # fmt: skip
    assert len(table) == 5 * 2 * 2
    assert set(table.experiment) == {"bnmusic/table1"}


def test_fad_is_the_frechet_distance_of_the_mixes_to_the_reference(table, scored):
    cells, reference = scored
    real = torch.cat([embedding for embedding, _ in reference.values()])
    for (arm, presentation), items in cells.items():
        own = torch.cat([embedding for _, embedding, _ in items])
        found = value(table, arm, presentation, "fad")
        assert found == pytest.approx(frechet.frechet_distance(own, real), rel=1e-4)
        assert found == pytest.approx(nuclear_frechet(own.double().numpy(), real.double().numpy()), rel=1e-3)


def test_kl_is_the_divergence_from_a_reference_of_the_prompts_genre(table, scored):
    cells, reference = scored
    assert set(reference) == set(GENRES)  # one clip each, so the partner is certain
    for (arm, presentation), items in cells.items():
        real = torch.cat([reference[genre][1] for genre, _, _ in items])
        own = torch.cat([logits for _, _, logits in items])
        found = value(table, arm, presentation, "kl")
        assert found == pytest.approx(divergence.softmax_kl(real, own).mean().item(), rel=1e-4)
        p, q = real.double().softmax(1), own.double().softmax(1)
        assert found == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-2, abs=1e-3)


def test_arms_differ_in_their_figures(table):
    assert table[table.metric == "fad"].groupby("arm").value.first().nunique() == 5


def test_intervals_hold_their_values(table):
    assert (table.ci_low <= table.value + 1e-9).all()
    assert (table.value <= table.ci_high + 1e-9).all()


def test_numbers_that_took_part_are_counted(table):
    assert set(table.n) == {2}
    assert set(table.n_failed) == {0}


def test_recipe_names_evaluator_hash_rate_reference_and_seed(table):
    for recipe in table.recipe:
        for part in ("pocket-tagger@", "sr=44100", "reference=7 clips", "seed=0", "bootstrap over noise clips"):
            assert part in recipe


def test_figures_of_the_paper_are_joined(table, finished):
    for (arm, presentation, metric), expected in PAPER.items():
        assert value(table, arm, presentation, metric, "paper_value") == expected
    # Noise alone has no KL in the paper.
    assert math.isnan(value(table, "noise_only", "direct", "kl", "paper_value"))
    layout = pd.read_csv(finished / "table.csv", dtype=str).set_index("Method")
    assert layout.loc["BNMusic", "Direct: paper's FAD/KL (esc50)"] == "6.76 / 2.14"


def test_arm_that_this_experiment_lacks_says_not_run_beside_the_papers_figure(world, tmp_path):
    run_dir = tmp_path / "run"
    assert world.run(run_dir, *CHEAP, "limit=2") == 0
    layout = pd.read_csv(run_dir / "table.csv", dtype=str).set_index("Method")
    line = layout.loc["MusicGen melody"]
    assert line["Direct: FAD"] == "not run"
    assert line["Direct: paper's FAD/KL (esc50)"] == "7.74 / 2.33"
    assert "MusicGen melody: not run" in (run_dir / "table.md").read_text(encoding="utf-8")


def test_table_warns_that_the_papers_figures_are_of_other_models(finished):
    assert "compare orderings" in (finished / "table.md").read_text(encoding="utf-8")


def test_arm_that_cannot_run_is_shown_as_failed_and_the_rest_is_scored(world, tmp_path, capsys):
    shutil.copytree(world.generator, tmp_path / "broken")
    weights = next((tmp_path / "broken" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    words = ("arms.riffusion_a2a=null", "limit=2", f"generator.checkpoint={tmp_path / 'broken'}")
    # A store of its own, so that no other test finds the broken checkpoint's folder.
    assert world.with_store(tmp_path / "store").run(tmp_path / "run", *words) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "bnmusic cannot run" in line]
    assert len(lines) == 1
    assert str(tmp_path / "broken") in lines[0]
    layout = pd.read_csv(tmp_path / "run" / "table.csv", dtype=str).set_index("Method")
    assert layout.loc["BNMusic", "Direct: FAD"] == layout.loc["BNMusic", "Direct: KL"] == "failed"
    assert float(layout.loc["Noise only", "Direct: FAD"].split()[0]) > 0
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    broken = table[table.arm == "bnmusic"]
    assert broken.value.isna().all()
    assert set(broken.n) == {0}
    assert set(broken.n_failed) == {2}
    assert "esc50, bnmusic: 0 of 2" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_one_pair_has_no_fad_but_a_kl(world, tmp_path):
    assert world.run(tmp_path / "run", *CHEAP, "limit=1") == 0
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert table[table.metric == "fad"].value.isna().all()
    assert table[table.metric == "kl"].value.notna().all()


def test_fad_over_n_is_told_for_sizes_that_there_are(world, tmp_path):
    assert world.run(tmp_path / "run", *CHEAP, "limit=4", "statistics.over_n=[2,3,50]") == 0
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(table.metric) == {"fad", "kl", "fad@2", "fad@3"}


def test_reference_clip_that_cannot_be_read_is_left_out_and_told(world, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(world.root, root)
    half, _ = split_music(musicbench(str(root), excerpt_seconds=5.0), 0)
    half[0].path.write_text("no sound")
    half[1].path.unlink()
    assert world.with_root(root).run(tmp_path / "run", *CHEAP, "limit=2") == 0
    captured = capsys.readouterr()
    for clip in half[:2]:
        assert f"reference clip left out: {clip.path}" in captured.out + captured.err
    assert pd.read_csv(tmp_path / "run" / "results.csv").recipe.str.contains("reference=5 clips").all()


def test_markdown_table_is_aligned():
    text = tables.to_markdown(tables.of_frame(pd.DataFrame({"a": ["x", "long"], "bb": ["1", "2"]})))
    assert text == "| a    | bb |\n| ---- | -- |\n| x    | 1  |\n| long | 2  |"


def test_latex_and_markdown_name_every_row(finished):
    for name in ("table.tex", "table.md"):
        text = (finished / name).read_text(encoding="utf-8")
        assert all(label in text for label in ("Noise only", "Random music", "MusicGen melody", "BNMusic"))
    assert (finished / "table.tex").read_text().count(r"\\") >= 6


@pytest.mark.parametrize("missing", ["pairs.jsonl", "config.yaml"])
def test_folder_that_is_no_runs_is_named(finished, tmp_path, missing):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("mixes"))
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(BlendbenchError, match=missing.replace(".", r"\.")):
        session.tabulate(Run.open(tmp_path / "run"))


@pytest.mark.parametrize("missing", ["table.*", "results.csv"])
def test_report_needs_the_table_and_the_results(finished, tmp_path, missing):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("mixes", missing))
    with pytest.raises(BlendbenchError, match="no table yet"):
        write_page(Run.open(tmp_path / "run"))


def test_report_escapes_what_comes_from_data(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("mixes"))
    rows = (
        (tmp_path / "run" / "pairs.jsonl").read_text(encoding="utf-8").replace('"wind"', '"<script>alert(1)</script>"')
    )
    (tmp_path / "run" / "pairs.jsonl").write_text(rows, encoding="utf-8")
    page = write_page(Run.open(tmp_path / "run")).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_latex_specials_in_the_caption_are_escaped():
    assert texts.latex("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"


def write_clap(folder: Path) -> Path:
    """A tiny CLAP of random weights, in transformers' layout."""
    config = transformers.ClapConfig(
        text_config={"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "intermediate_size": 16, "projection_dim": 8},
        audio_config={"num_mel_bins": 64, "spec_size": 256, "hidden_size": 16, "depths": [1, 1],
                      "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "projection_dim": 8,
                      "num_hidden_layers": 2},
        projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def test_metrics_of_other_evaluators_stand_beside_the_others(world, finished, tmp_path):
    """EnCodec has many embeddings a clip, CLAP knows texts; both with random weights. No music is made again."""
    encodec = transformers.EncodecConfig(num_filters=4, hidden_size=6, codebook_size=16, num_lstm_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.EncodecModel(encodec).save_pretrained(tmp_path / "encodec")
    config = tmp_path / "config" / "evaluator"
    config.mkdir(parents=True)
    (config / "mine.yaml").write_text(
        f"""
fad: {{_target_: blendbench.evaluators.encodec.EnCodec, name: encodec, checkpoint: {tmp_path / "encodec"}}}
kl: {{_target_: blendbench.evaluators.pocket.PocketTagger, name: tagger, checkpoint: {world.evaluator}}}
prompt: {{_target_: blendbench.evaluators.clap.CLAP, name: clap, checkpoint: {write_clap(tmp_path / "clap")}}}
"""
    )
    shutil.copytree(finished, tmp_path / "run")
    words = [word for word in world.run_words(tmp_path / "run", "limit=2", "batch=1") if "evaluator" not in word]
    mine = ["evaluator=mine", "kl.activation=sigmoid", "statistics.fad_infinity=true"]
    assert call(*words, *mine, "--config-dir", str(tmp_path / "config")) == 0
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert rows_of(tmp_path / "run") == rows_of(finished)
    assert set(table.metric) == {"fad", "fad_inf", "kl", "clap"}
    assert table[table.metric == "clap"].value.between(-1, 1).all()
    assert table[table.metric == "fad_inf"].recipe.str.contains("too few mixes").all()
    for metric, named in (("fad", "evaluator=encodec@"), ("kl", "sigmoid KL"), ("clap", "cosine of mix and prompt")):
        assert table[table.metric == metric].recipe.str.contains(named).all()
        assert table[table.metric == metric].value.notna().all()
    # The distance is taken over all frames, and its interval over clips.
    heard = EnCodec("encodec", str(tmp_path / "encodec"))
    heard.prepare("cpu")

    def frames(wave):
        return heard.score(audio.resample(wave, 44_100, 24_000)).embeddings

    mixes = [row for row in rows_of(finished) if (row["arm"], row["presentation"]) == ("bnmusic", "direct")]
    own = torch.cat([frames(Run.open(finished).heard(row)) for row in mixes])
    half, _ = split_music(musicbench(str(world.root), excerpt_seconds=5.0), 0)
    waves = [audio.extend_circular(files.read(clip.path, 24_000, max_seconds=5), 120_000) for clip in half]
    reference = torch.cat([heard.score(wave).embeddings for wave in waves])
    assert len(own) == 2 * len(reference) / 7 > 700
    assert value(table, "bnmusic", "direct", "fad") == pytest.approx(frechet.frechet_distance(own, reference), rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "target", "words"),
    [
        ("kl", "encodec.EnCodec", "evaluator.kl: it knows no classes"),
        ("prompt", "encodec.EnCodec", "evaluator.prompt: it knows no texts"),
    ],
)
def test_an_evaluator_that_cannot_serve_its_metric_is_named(world, finished, tmp_path, capsys, metric, target, words):
    encodec = transformers.EncodecConfig(num_filters=4, hidden_size=6, codebook_size=16, num_lstm_layers=1)
    transformers.EncodecModel(encodec).save_pretrained(tmp_path / "encodec")
    entry = f"{{_target_: blendbench.evaluators.{target}, name: it, checkpoint: {tmp_path / 'encodec'}}}"
    shutil.copytree(finished, tmp_path / "run")
    assert world.run(tmp_path / "run", "limit=2", "batch=1", f"++evaluator.{metric}={entry}") == 1
    assert words in capsys.readouterr().err


def test_an_evaluator_for_which_the_clips_are_too_short_is_one_line(world, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    words = ("limit=2", "batch=1", "evaluator.fad._target_=support.worlds.Impatient", "allow_targets=[support.worlds]")
    assert world.run(tmp_path / "run", *words) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert "can score no reference clip of 5 s; see the lines above" in lines[-1]
    assert sum("reference clip left out" in line for line in lines) == 7
