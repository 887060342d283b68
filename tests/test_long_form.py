"""The long-form task from end to end: what is given, Msanii's five methods, anchors, experiments and bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from support.msanii import tiny_msanii, tone
from support.worlds import call

from blendbench import config
from blendbench.composing import compose
from blendbench.datasets import Nothing, recordings
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.runs.folder import Run
from blendbench.tasks import Music, Withheld
from blendbench.tasks.long_form.given import Piece, Start
from blendbench.tasks.long_form.task import LongForm
from blendbench.tasks.long_gap.gap import Gap

RATE = 44_100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_msanii(tmp_path_factory.mktemp("msanii"))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_msanii(tmp_path_factory.mktemp("stereo"), 2)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number, pitch in enumerate((220.0, 330.0, 440.0)):
        tone(folder / f"song{number}.wav", 6, pitch, 2)
    return folder


def task_of(*words: str) -> LongForm:
    task = Run.of(compose(["task=long_form", "run_dir=none", *words])).task
    assert isinstance(task, LongForm)
    return task


def method_of(name: str, checkpoint: Path, *words: str, channels: int = 1):
    settings = compose([
        "task=long_form", f"method={name}", f"msanii.checkpoint={checkpoint}", "method.phase.iterations=2", *words
    ])  # fmt: skip
    method = config.build(settings["method"], "method", [])
    method.prepare(Context(RATE, "cpu", 0, {}, channels=channels))
    return method


def start(seconds: float = 3.0, channels: int = 1, seed: int = 1, **more: object) -> Start:
    samples = round(seconds * RATE)
    wave = torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    wave = wave[0] if channels == 1 else wave
    return Start(Piece("d", Nothing(str(seed))), seed, samples, wave, wave.flip(-1), **more)  # type: ignore[arg-type]


# What is given


def test_a_recording_comes_with_another_one_and_a_gap(songs):
    task = task_of("dataset=recordings", f"data.path={songs}", "form.seconds=4", "form.gap_start=1", "form.gap_stop=2")
    items = task.items(None)
    assert len(items) == 3 and len({item.id for item in items}) == 3
    given = task.read(items[0])
    assert isinstance(given, Start) and given.recording is not None and given.context is not None
    assert given.recording.shape == (4 * RATE,) and given.gap == Gap(RATE, 2 * RATE)
    assert not given.context[RATE : 2 * RATE].any() and torch.equal(given.context[:RATE], given.recording[:RATE])
    assert given.second is not None and not torch.equal(given.second, given.recording)
    handed = given.only(("context",))
    assert isinstance(handed.recording, Withheld) and handed.gap == given.gap
    assert isinstance(given.only(("recording",)).gap, Withheld)


def test_two_channels_stay_two(songs):
    given = task_of("dataset=recordings", f"data.path={songs}", "form.channels=2").read(
        task_of("dataset=recordings", f"data.path={songs}").items(1)[0]
    )
    assert isinstance(given, Start) and given.recording is not None
    assert given.recording.shape == (2, 6 * RATE)  # the file is shorter than form.seconds
    assert not torch.equal(given.recording[0], given.recording[1])


def test_a_recording_comes_as_often_as_asked_and_nothing_is_numbered(songs):
    items = task_of("dataset=recordings", f"data.path={songs}", "form.repeats=2").items(1)
    assert [item.time for item in items] == [1, 2] and items[1].id.endswith("--2")
    nothing = task_of("dataset=nothing", "dataset.nothing.count=3").items(None)
    assert sorted(item.id for item in nothing) == ["nothing--0001", "nothing--0002", "nothing--0003"]
    given = task_of("dataset=nothing").read(nothing[0])
    assert isinstance(given, Start) and given.recording is None and given.samples == round(11.888 * RATE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["form.gap_start=2"], "form.gap_start"),
        (["form.gap_start=5", "form.gap_stop=3"], "form.gap_start"),
        (["form.gap_start=5", "form.gap_stop=30"], "form.gap_start"),
        (["form.gap_start=0", "form.gap_stop=3"], "form.gap_start"),
        (["form.seconds=0"], "form.seconds"),
        (["form.channels=3"], "form.channels"),
        (["form.repeats=0"], "form.repeats"),
    ],
)
def test_keys_out_of_range_are_refused(words, message):
    with pytest.raises(BlendbenchError, match=message):
        task_of(*words)


def test_the_drum_loop_travels_with_the_package():
    clips = recordings.drum_loop()
    assert [clip.id for clip in clips] == ["drum-loop", "piano-piece"]
    assert soundfile.info(clips[0].path).duration == pytest.approx(26.0, abs=0.01)


# Methods


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_music_from_nothing_is_as_long_as_asked_and_its_own_by_seed(model, seconds):
    method = method_of("msanii", model, "method.steps=4")
    given = [start(seconds, seed=seed).only(method.takes) for seed in (1, 2)]
    made = method.generate(given)
    assert [len(one.waveform) for one in made] == [round(seconds * RATE)] * 2
    assert not torch.equal(made[0].waveform, made[1].waveform)
    assert torch.equal(method.generate(given[1:])[0].waveform, made[1].waveform)
    assert made[0].facts["frames"] % 4 == 0
    assert ("beyond_training" in made[0].facts) == (seconds == 3.0)  # it has learnt 64 frames


def test_audio_to_audio_at_0_is_the_recording_through_vocoder_and_phase(model):
    method = method_of("msanii_a2a", model, "method.t=0")
    given = start()
    encoded = method.encode(given.recording)
    made = method.generate([given.only(method.takes)])[0]
    assert torch.equal(made.images["recording"], made.images["music"])
    assert made.waveform.shape == given.recording.shape
    rms = float(given.recording.square().mean().sqrt())
    assert encoded.gain == pytest.approx(0.0566 / rms, rel=1e-4)


def test_a_recordings_level_comes_back(model):
    method = method_of("msanii_a2a", model, "method.t=0")
    given = start()
    louder = Start(given.item, given.seed, given.samples, given.recording * 4)
    one, other = (method.generate([which])[0].waveform for which in (given, louder))
    assert torch.allclose(4 * one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_interpolation_takes_the_shorter_and_its_ends_are_the_recordings(model):
    given = start()
    short = Start(given.item, given.seed, given.samples, given.recording, given.second[: 2 * RATE])
    method = method_of("msanii_interpolate", model, "method.t=0", "method.share=1.0")
    made = method.generate([short])[0]
    assert len(made.waveform) == 2 * RATE
    assert torch.equal(made.images["music"], made.images["recording"])


def test_inpainting_keeps_all_frames_that_do_not_hear_the_gap(model):
    gap = Gap(RATE, 2 * RATE)
    given = start(gap=gap)
    context = given.recording.clone()
    context[gap.start : gap.stop] = 0
    given = Start(given.item, given.seed, given.samples, given.recording, None, context, gap)
    method = method_of("msanii_inpaint", model, "method.steps=10", "method.jump=5", "method.resample=2")
    made = method.generate([given.only(method.takes)])[0]
    first, last = method.heard(gap.start, gap.stop, 1000)
    # The window of a frame is 1,024 samples at half the rate about its place: 43.07 frames a second.
    assert (first, last) == (43, 88)
    music, own = made.images["music"], made.images["context"]
    assert torch.equal(music[:, :first], own[:, :first]) and torch.equal(music[:, last:], own[:, last:])
    assert not torch.equal(music[:, first:last], own[:, first:last])
    assert made.facts["kept_share"] == pytest.approx(1 - (last - first) / music.shape[1], abs=1e-4)


def test_outpainting_goes_on_by_halves(model):
    given = start()
    method = method_of(
        "msanii_outpaint", model, "method.spans=2", "method.steps=10", "method.jump=5", "method.resample=2"
    )
    made = method.generate([given.only(method.takes)])[0]
    assert len(made.waveform) == 2 * given.samples and made.facts["continues_at_s"] == 3.0
    frames = method.model.front.frames(3 * 22_050)
    assert torch.equal(made.images["music"][:, :frames], made.images["recording"][:, :frames])


def test_a_model_of_two_channels_hears_both_and_one_channel_comes_of_their_mean(model, stereo):
    given = start(channels=2)
    both = method_of("msanii_a2a", stereo, "method.t=100", "method.steps=5", channels=2)
    made = both.generate([given])[0]
    assert made.waveform.shape == (2, given.samples) and not torch.equal(made.waveform[0], made.waveform[1])
    one = method_of("msanii_a2a", model, "method.t=100", "method.steps=5", channels=2)
    alike = one.generate([given])[0]
    assert torch.equal(alike.waveform[0], alike.waveform[1])


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(RATE), "silent"),
        (torch.full((RATE,), 0.5), "one value throughout"),
        (torch.full((RATE,), float("nan")), "NaN"),
        (torch.randn(3, RATE), "3 channels; give one or two"),
        (torch.randn(600), "600 samples; give at least 513 at 22,050 Hz"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused(model, wave, message):
    method = method_of("msanii_a2a", model)
    with pytest.raises(ClipError, match=message):
        method.generate([Start(Piece("d", Nothing("1")), 1, RATE, wave)])


def test_a_method_that_needs_a_recording_says_so(model):
    with pytest.raises(ClipError, match="there is no recording, which Msanii A2A needs"):
        method_of("msanii_a2a", model).generate([Start(Piece("nothing", Nothing("1")), 1, RATE)])
    with pytest.raises(ClipError, match=r"has no gap; set form\.gap_start"):
        given = start()
        method_of("msanii_inpaint", model).generate(
            [Start(given.item, 1, given.samples, given.recording, None, given.recording)]
        )


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("msanii_a2a", ["method.t=1001"], "t is 1001; give a time within 0..1000"),
        ("msanii_a2a", ["method.phase.vocoder=x"], "choose neural or pseudo_inverse"),
        ("msanii_a2a", ["+method.model.x=1"], "mend that entry"),
        ("msanii_interpolate", ["method.share=1.5"], "share 1.5"),
        ("msanii_inpaint", ["method.mask=x"], "mask 'x'"),
        ("msanii_inpaint", ["method.resample=0"], "resample 0"),
        ("msanii_outpaint", ["method.spans=0"], "spans is 0"),
        ("msanii", ["method.steps=0"], "steps is 0"),
        ("msanii", ["method.start=x"], "start is 'x'; choose noise or level"),
        ("rearranged", ["method.kind=x"], "use one of recording"),
    ],
)
def test_settings_of_methods_out_of_range_are_refused(name, words, message):
    settings = compose(["task=long_form", f"method={name}", *words])
    with pytest.raises(BlendbenchError, match=message):
        config.build(settings["method"], "method", [])


def test_a_missing_checkpoint_is_one_line():
    with pytest.raises(BlendbenchError, match=r"msanii\.checkpoint=/nowhere: no checkpoint"):
        method_of("msanii", Path("/nowhere"))


# Anchors


def anchored(kind: str, given: Start, others: torch.Tensor | None = None, **words: object) -> torch.Tensor:
    settings = compose(["task=long_form", "method=rearranged", f"method.kind={kind}"])
    method = config.build(settings["method"] | words, "method", [])

    class Lent:
        def signature(self) -> str:
            return ""

        def other(self, item: Piece) -> torch.Tensor:
            assert others is not None
            return others

    method.prepare(Context(RATE, "cpu", 0, {"others": Lent}))
    made: list[Music] = method.generate([given])
    return made[0].waveform


def test_anchors_are_what_they_say():
    given, gap = start(), Gap(RATE, 2 * RATE)
    assert given.recording is not None
    assert torch.equal(anchored("recording", given), given.recording)
    shuffled = anchored("shuffled", given, seconds=0.5)
    assert not torch.equal(shuffled, given.recording)
    assert torch.equal(shuffled.sort().values, given.recording.sort().values)
    loop = anchored("loop", given, seconds=1.0)
    assert torch.equal(loop, given.recording[:RATE].repeat(3))
    context = given.recording.clone()
    context[gap.start : gap.stop] = 0
    holed = Start(given.item, 1, given.samples, given.recording, None, context, gap)
    other = given.recording.flip(-1)
    filled = anchored("other_in_gap", holed, other)
    assert torch.equal(filled[gap.start : gap.stop], other[gap.start : gap.stop])
    repeated = anchored("repeated_in_gap", holed)
    assert torch.equal(repeated[RATE : 2 * RATE], given.recording[:RATE])
    assert torch.equal(anchored("silence_in_gap", holed), context)
    assert torch.equal(anchored("other", given, other), other)


# Experiments


def run(experiment: str, model: Path, folder: Path, *words: str) -> pd.DataFrame:
    tuned = [f"msanii.checkpoint={model}", "statistics.resamples=20", f"run_dir={folder / 'run'}"]
    assert call("run", f"experiment=msanii/{experiment}", *tuned, f"store_dir={folder / 'store'}", *words) == 0
    return pd.read_csv(folder / "run" / "results.csv")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "pairs.jsonl").read_text().splitlines()]


@pytest.fixture
def quick() -> list[str]:
    return [f"arms.{arm}.phase.iterations=1" for arm in ("t0", "t100", "t500", "t900")] + [
        f"arms.{arm}.steps=4" for arm in ("t100", "t500", "t900")
    ]


def test_figure_3_is_drawn_and_a_table_tells_what_is_kept(model, tmp_path, quick):
    found = run("fig3", model, tmp_path, *quick)
    assert set(found["metric"]) == {"chroma_first", "onsets_first"}
    assert found[found["metric"] == "onsets_first"]["value"].notna().all()
    assert (tmp_path / "run" / "figures" / "fig3.png").stat().st_size > 10_000
    assert "takes" not in rows_of(tmp_path)[0] and all(row["status"] == "ok" for row in rows_of(tmp_path))
    assert "Msanii, Fig. 3" in (tmp_path / "run" / "report" / "index.html").read_text()


def test_two_channels_go_through_a_whole_run(stereo, songs, tmp_path):
    words = ["dataset=recordings", f"data.path={songs}", "form.channels=2", "form.seconds=4", "limit=1",
             "arms.t100.phase.iterations=1", "arms.t100.steps=3"]  # fmt: skip
    run("fig3", stereo, tmp_path, *words, "arms.t0=null", "arms.t500=null", "arms.t900=null")
    (row,) = rows_of(tmp_path)
    wave, rate = soundfile.read(tmp_path / "run" / row["mix"])
    assert (wave.shape, rate) == ((4 * RATE, 2), RATE) and not np.array_equal(wave[:, 0], wave[:, 1])
    assert (tmp_path / "run" / "figures" / "fig3.png").is_file()


@pytest.mark.soak
def test_seams_are_measured_as_made_and_pasted(model, tmp_path):
    arms = ("msanii_inpaint", "exact")
    words = [f"arms.{arm}.{key}" for arm in arms for key in ("steps=10", "jump=5", "resample=2", "phase.iterations=1")]
    found = run("seams", model, tmp_path, *words, "arms.copy.phase.iterations=1", "limit=2", "arms.exact=null")
    assert set(found["presentation"]) == {"as_made", "pasted"}
    own = found[(found["arm"] == "recording") & (found["presentation"] == "pasted")].set_index("metric")["value"]
    assert own["gap_chroma"] == pytest.approx(1.0, abs=1e-3) and own["lsd"] == pytest.approx(0.0, abs=1e-3)
    silent = found[(found["arm"] == "silence") & (found["presentation"] == "as_made")].set_index("metric")["value"]
    assert silent["seam_level"] > own["seam_level"] + 10
    # Outside of the gap and the cross-fades a pasted result is the recording, bit for bit as its file has it.
    rows = [row for row in rows_of(tmp_path) if row["arm"] == "msanii_inpaint" and row["presentation"] == "pasted"]
    wave = soundfile.read(tmp_path / "run" / rows[0]["mix"])[0]
    other = next(
        row for row in rows_of(tmp_path)
        if row["arm"] == "recording" and row["presentation"] == "as_made" and row["pair_id"] == rows[0]["pair_id"]
    )  # fmt: skip
    kept = soundfile.read(tmp_path / "run" / other["mix"])[0]
    assert np.array_equal(wave[: 4 * RATE - 441], kept[: 4 * RATE - 441])


def test_measures_have_copy_training_songs_and_anchors(model, songs, tmp_path):
    words = [
        "dataset=recordings", f"data.path={songs}", f"data.music_path={songs}", f"arms.training.folder={songs}",
        "form.seconds=6", "arms.msanii.steps=3", "arms.msanii.phase.iterations=1", "arms.copy.phase.iterations=1",
        "evaluator.fad.seconds=2.0",
    ]  # fmt: skip
    other = tmp_path / "reference"
    for number, pitch in enumerate((250.0, 350.0)):
        tone(other / f"other{number}.wav", 6, pitch)
    found = run("measures", model, tmp_path, *words, f"data.music_path={other}")
    fad = found[found["metric"] == "fad"].set_index("arm")["value"]
    assert set(fad.index) == {"msanii", "copy", "recording", "training", "shuffled", "loop"} and fad.notna().all()
    assert fad["recording"] < fad["msanii"]
    table = (tmp_path / "run" / "table.md").read_text()
    assert "Training songs" in table and "Diversity" in table


def test_samples_are_made_of_nothing_and_a_second_run_makes_none(model, tmp_path):
    words = ["dataset.nothing.count=2", "form.seconds=2", "arms.msanii.steps=3", "arms.msanii.phase.iterations=1"]
    run("fig2", model, tmp_path, *words)
    before = {row["pair_id"]: row["sha256"] for row in rows_of(tmp_path)}
    assert len(set(before.values())) == 2
    assert call("run", "experiment=msanii/fig2", f"msanii.checkpoint={model}", "statistics.resamples=20",
                f"run_dir={tmp_path / 'again'}", f"store_dir={tmp_path / 'store'}", *words) == 0  # fmt: skip
    after = [json.loads(line) for line in (tmp_path / "again" / "pairs.jsonl").read_text().splitlines()]
    assert {row["pair_id"]: row["sha256"] for row in after} == before


def test_msanii_hides_a_noise_with_no_text_at_hand(model, tmp_path):
    """In the noise benchmark: a noise is changed, or its loudest part kept; neither sees the prompt."""
    words = [
        "experiment=beyond/related", "limit=1", f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}",
        "statistics.resamples=20", "arms.bnmusic=null", "arms.riff_cnet=null", "arms.riff_p2p=null",
        "arms.riff_p2p_residual=null", "arms.riffusion_edges=null", "arms.text=null", "arms.random_music=null",
        "arms.riffusion_a2a=null",
    ]  # fmt: skip
    for arm in ("msanii_a2a", "msanii_inpaint"):
        words += [f"arms.{arm}.model.checkpoint={model}", f"arms.{arm}.steps=10", f"arms.{arm}.phase.iterations=1"]
    known = compose(["experiment=beyond/related"])["arms"]
    words = [word for word in words if not word.endswith("=null") or word.split(".")[1].split("=")[0] in known]
    assert call("run", *words) == 0
    rows = rows_of(tmp_path)
    assert {row["arm"] for row in rows} == {"msanii_a2a", "msanii_inpaint"}
    assert all(row["status"] == "ok" for row in rows)
    shares = [row["kept_share"] for row in rows if row["arm"] == "msanii_inpaint"]
    assert shares == pytest.approx([0.15] * len(shares), abs=0.001)
