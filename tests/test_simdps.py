"""DPS and SimDPS: gaps filled by sampling from a prior, here the Wiener filter of the built-in piano pieces."""

import json
import math

import pandas as pd
import pytest
import torch
from support.stimuli import PIECES, ROOT, stimulus
from support.worlds import call, rows_of

from blendbench import composing
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.methods.simdps import SimDPS
from blendbench.models.priors import AudioPrior, welch
from blendbench.runs.folder import Run
from blendbench.sound import audio
from blendbench.tasks.long_gap.distances import context_snr, guide_snr
from blendbench.tasks.long_gap.gap import Gap
from blendbench.tasks.long_gap.task import Incomplete, LongGap

SCHEDULE = {"steps": 16, "sigma_max": 8.0, "sigma_min": 1e-4}
CHURN = {"amount": 10.0}


@pytest.fixture(scope="module")
def items() -> list[Incomplete]:
    """Two windows of built-in pieces."""
    task = Run.of(composing.compose(["task=long_gap", "run_dir=none"])).task
    assert isinstance(task, LongGap)
    found = [task.read(item) for item in task.items(None)[:2]]
    return [one for one in found if isinstance(one, Incomplete)]


@pytest.fixture(scope="module")
def prior(items, tmp_path_factory) -> str:
    """A folder with a Wiener prior at 11,025 Hz."""
    low = torch.stack([audio.resample(one.original, 44_100, 11_025) for one in items])
    folder = tmp_path_factory.mktemp("prior")
    AudioPrior(11_025, 0.063, welch(low), 65_536, base="wiener").save(folder)
    return str(folder)


def method(prior: str, guide: float = 0.0, **settings) -> SimDPS:
    search = {"refine": "context"} if guide else None
    words = {"guidance": {"observed": 0.3, "guide": guide}, "schedule": SCHEDULE, "churn": CHURN, "search": search}
    made = SimDPS("SimDPS", **({"prior": {"checkpoint": prior}} | words | settings))
    made.prepare(Context(44_100, "cpu", 0, {}))
    return made


def only(made: SimDPS, items: list[Incomplete]) -> list[Incomplete]:
    return [one.only(made.takes) for one in items]


def test_the_more_a_guide_weighs_the_closer_the_fill_follows_it(prior, items):
    found, snrs = {}, {}
    for weight in (0.04, 0.15):
        made = method(prior, weight)
        found[weight] = made.generate(only(made, items))
        snrs[weight] = [music.facts["snr_to_guide"] for music in found[weight]]
    alone = method(prior)
    free = alone.generate(only(alone, items))
    assert "snr_to_guide" not in free[0].facts
    for place, one in enumerate(items):
        found_guide = method(prior, 0.15).sim.generate([one])[0].waveform
        unguided = guide_snr(found_guide, free[place].waveform, one.gap)
        assert unguided < -1 < snrs[0.04][place] < 4 < snrs[0.15][place], (unguided, snrs)
        assert snrs[0.15][place] == pytest.approx(
            guide_snr(found_guide, found[0.15][place].waveform, one.gap), abs=1e-3
        )
        for music in (free[place], found[0.04][place], found[0.15][place]):
            assert context_snr(one.original, music.waveform, one.gap, 2000) > 12


def test_an_item_gets_the_same_bits_in_any_batch(prior, items):
    made = method(prior, 0.15)
    together = made.generate(only(made, items))
    alone = [made.generate(only(made, [one]))[0] for one in items]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.waveform, other.waveform)


@pytest.mark.parametrize("above", ["guide", "none"])
def test_what_is_above_the_prior_is_the_guides_or_nothing(prior, items, above):
    made = method(prior, 0.15, above=above)
    one = items[0]
    music = made.generate(only(made, [one]))[0].waveform
    guide = made.sim.generate([one])[0].waveform
    inner = slice(one.gap.start + 2000, one.gap.stop - 2000)

    def high(waveform: torch.Tensor) -> torch.Tensor:
        part = waveform[inner]
        spectrum = torch.fft.rfft(part * torch.hann_window(len(part)))
        return spectrum[round(5_600 / 44_100 * len(part)) :]

    error = high(music) - (high(guide) if above == "guide" else 0)
    assert float(error.abs().square().mean().sqrt()) < 2e-3 * float(high(guide).abs().square().mean().sqrt())


def test_a_longer_window_is_filled_around_its_gap(prior, items):
    """What lies further away than the prior reaches keeps its bits."""
    one = items[0]
    more = torch.cat([items[1].original, one.recording, items[1].original])
    shifted = Gap(one.gap.start + one.samples, one.gap.stop + one.samples)
    long = Incomplete(one.item, one.seed, len(more), more, shifted, [], more)
    made = method(prior)
    music = made.generate([long.only(made.takes)])[0].waveform
    assert len(music) == len(more)
    middle = (shifted.start + shifted.stop) // 2
    kept = torch.cat([music[: middle - 131_072], music[middle + 131_072 :]])
    assert torch.equal(kept, torch.cat([more[: middle - 131_072], more[middle + 131_072 :]]))
    assert float(music[shifted.start : shifted.stop].abs().max()) > 0.01


def test_a_prior_at_the_recordings_own_rate_needs_no_resampling(items, tmp_path):
    one = items[0]
    AudioPrior(44_100, 0.063, welch(one.original[None]), 262_144, base="wiener").save(tmp_path)
    made = method(str(tmp_path))
    music = made.generate(only(made, [one]))[0].waveform
    assert context_snr(one.original, music, one.gap, 2000) > 15


def test_nothing_of_the_gap_is_known_to_the_method(prior, items):
    one = items[0]
    made = method(prior)
    given = only(made, [one])[0]
    other = Incomplete(one.item, one.seed, one.samples, one.recording, one.gap, [], torch.zeros(one.samples))
    assert torch.equal(made.generate([given])[0].waveform, made.generate(only(made, [other]))[0].waveform)


def test_windows_that_do_not_fit_are_told(prior, items):
    one = items[0]
    made = method(prior)
    short = Incomplete(one.item, 0, 200_000, one.recording[:200_000], Gap(60_000, 100_000), [], one.original[:200_000])
    with pytest.raises(ClipError, match="window has 200000 samples, the prior takes 262144 at 44,100 Hz; give"):
        made.generate(only(made, [short]))
    silent = Incomplete(one.item, 0, one.samples, torch.zeros(one.samples), one.gap, [], one.original)
    with pytest.raises(ClipError, match="silent around the gap"):
        made.generate(only(made, [silent]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"above": "air"}, "above is 'air'; choose guide or none"),
        ({"level": 0.0}, "level is 0.0; give a number above 0"),
        ({"guidance": {"guide": 0.1}}, "search is null; say how to find the guide"),
        ({"guidance": {"observed": -1}}, "guidance.observed is -1; give a number from 0 up"),
        ({"guidance": {"omega": 1}}, "unexpected keyword argument 'omega'; mend that entry"),
        ({"schedule": {"steps": 1}}, "steps is 1; give a whole number from 2 up"),
        ({"schedule": {"kind": "linear"}}, "schedule is 'linear'; choose log or edm"),
        ({"churn": {"amount": math.inf}}, "amount of churn is inf; give a number from 0 up"),
        ({"prior": {"checkpoint": "pocket", "rate": 3}}, "unexpected keyword argument 'rate'; mend that entry"),
    ],
)
def test_wrong_settings_are_told(settings, told):
    words = {"prior": {"checkpoint": "x"}, "guidance": {}, "schedule": {}, "churn": {}} | settings
    with pytest.raises(BlendbenchError) as caught:
        SimDPS("DPS", **words)
    assert str(caught.value).startswith("arm 'DPS': ") and told in str(caught.value)


def test_a_prior_that_is_not_there_is_one_line(tmp_path, capsys):
    words = ("run", "experiment=simdps/objective", f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}")
    assert call(*words, f"prior.checkpoint={tmp_path}") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]
    assert f"prior.checkpoint={tmp_path}: no checkpoint (config.json) there; give a folder" in line


@pytest.mark.soak
def test_every_arm_of_the_paper_runs_on_the_published_excerpts(prior, tmp_path):
    """What the authors published follows Sim as measured in the specification, and ours as its weights say."""
    stimulus(PIECES[0], "Original")
    words = ["experiment=simdps/stimuli", f"data.root={ROOT}", f"prior.checkpoint={prior}", "report=false"]
    words += [f"arms.{arm}.schedule.steps=8" for arm in ("dps", "simdps_l", "simdps_h")]
    folders = (f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}", "statistics.resamples=20")
    assert call("run", *words, *folders) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 10 * 2 and {row["status"] for row in rows} == {"ok"}
    told = {(row["arm"], row["excerpt"]): row.get("snr_to_guide") for row in rows}
    published = {"published_strict": (19.7, 14.9), "published_relaxed": (5.6, 3.1), "published_dps": (-2.3, -6.2)}
    for arm, expected in published.items():
        values = [value for (name, _), value in sorted(told.items()) if name == arm]
        assert values == pytest.approx(expected, abs=0.06)
    table = (tmp_path / "run" / "table.md").read_text()
    assert "Guide SNR: dB, of the fill as the method made it" in table
    music = {row["pair_id"]: row["part"] for row in rows if row["arm"] == "simdps_l"}
    assert music == {row["pair_id"]: row["part"] for row in rows if row["arm"] == "sim"}


def run(tmp_path, prior: str, *words: str) -> None:
    own = [f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}", "statistics.resamples=20", "limit=2"]
    assert call("run", *own, f"prior.checkpoint={prior}", "report=false", *words) == 0


@pytest.mark.soak
def test_the_similarity_experiment_shows_how_much_the_match_decides(prior, tmp_path):
    arms = [f"arms.simdps_{rank}=null" for rank in (4, 16)]
    steps = [f"arms.simdps_{rank}.schedule.steps=4" for rank in (1, 64)]
    run(tmp_path, prior, "experiment=simdps/similarity", *arms, *steps)
    rows = rows_of(tmp_path / "run")
    for row in rows:
        same = {one["arm"]: one["distance"] for one in rows if one["pair_id"] == row["pair_id"]}
        assert same[row["arm"].replace("simdps", "sim")] == row["distance"]
        ranked = [same[f"sim_{rank}"] for rank in (1, 4, 16, 64)]
        assert ranked == sorted(ranked)
    table = pd.read_csv(tmp_path / "run" / "figures" / "similarity.csv")
    assert len(table) == 2 * 6 and set(table["group"]) == {"Sim", "SimDPS-l"}
    assert (tmp_path / "run" / "figures" / "similarity.png").stat().st_size > 5000


def test_gaps_of_other_lengths_are_swept(prior, tmp_path):
    words = ["experiment.sweep={gap.seconds:[0.05,1.0]}", "arms.dps=null", "arms.simdps_l=null"]
    run(tmp_path, prior, "experiment=simdps/gap_length", *words)
    together = pd.read_csv(tmp_path / "run" / "sweep.csv")
    lsd = together[(together["metric"] == "lsd") & (together["arm"] == "lpc")].set_index("gap.seconds")["value"]
    assert set(lsd.index) == {0.05, 1.0} and lsd[0.05] < lsd[1.0]


def test_a_gap_in_seconds_lies_in_the_middle():
    def gap_of(*words: str) -> dict:
        return composing.compose(["task=long_gap", "run_dir=none", *words])["gap"]

    assert gap_of("gap.seconds=1") == {"window": 262_144, "start": 109_022, "stop": 153_122, "corpus": "track"}
    assert gap_of() == {"window": 262_144, "start": 85_197, "stop": 176_947, "corpus": "track"}
    for seconds in ("7", "-1", "0"):
        with pytest.raises(BlendbenchError, match=r"gap\.(start|stop)"):
            gap_of(f"gap.seconds={seconds}")


def test_the_guides_weight_is_swept(prior, tmp_path):
    words = ["experiment.sweep={arms.simdps.guidance.guide:[0.0,0.3]}", "arms.simdps.schedule.steps=24"]
    run(tmp_path, prior, "experiment=simdps/sweep_omega", *words)
    together = pd.read_csv(tmp_path / "run" / "sweep.csv")
    snr = together[together["metric"] == "guide_snr"].set_index("arms.simdps.guidance.guide")["value"]
    assert snr[0.0] < 0 < snr[0.3]


def test_methods_that_build_on_each_others_files_are_listed_with_what_they_take(capsys):
    assert call("list", "methods") == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("ok ")}
    assert lines["dps"].endswith("takes recording, gap (long_gap)")
    for name in ("simdps_l", "simdps_h"):
        assert lines[name].endswith("takes recording, gap, corpus (long_gap)")
