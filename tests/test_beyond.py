"""Methods that go beyond the paper: wrappers of other methods, music from text alone, guidance by the masking model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import tiny_diffusion
from support.worlds import World, rows_of

from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.evaluators.pocket import PocketTagger
from blendbench.figures.beyond import beaten
from blendbench.methods import Context
from blendbench.methods._images import Window
from blendbench.methods.best_of import BestOf
from blendbench.methods.masking_guided import MaskingGuided
from blendbench.methods.shaped import Shaped
from blendbench.methods.text_to_music import TextToMusic
from blendbench.models.generator import Generator
from blendbench.sound import audio, files
from blendbench.sound.masking_model import band_energies, masked_threshold, noise_to_mask_ratio, spectra
from blendbench.sound.mel import decode_image, mel_amplitudes
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.mel_masking import MelMasking
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.task import MusicHalf

RATE = 44_100
FAST = {"steps": 4, "guidance_scale": 1.0, "scheduler": "ddim"}


def wave(seed: int, seconds: float = 2.0, low: float = 0.0, high: float = 20_000.0) -> torch.Tensor:
    count = round(seconds * RATE)
    spectrum = torch.fft.rfft(torch.from_numpy(np.random.RandomState(seed).randn(count)))
    frequencies = torch.fft.rfftfreq(count, 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] *= 0.01
    return audio.normalize_loudness(torch.fft.irfft(spectrum, n=count).float(), RATE, -18.0)[0]


def given(name: str = "a", text: str = "a jazz", seed: int = 7, noise: torch.Tensor | None = None) -> NoiseAndText:
    noise = wave(1, high=2000.0) if noise is None else noise
    pair = Pair("esc50", NoiseClip(name, Path(f"{name}.wav"), "wind", name), Prompt("p", "Jazz", text))
    return NoiseAndText(pair, seed, len(noise), noise, text)


def ratio(noise: torch.Tensor, music: torch.Tensor) -> float:
    leveled, _ = audio.normalize_loudness(music, RATE, -18.0)
    return noise_to_mask_ratio(band_energies(spectra(noise)), masked_threshold(spectra(leveled)))


class Plays:
    """Makes noise of a colour that the seed draws, and remembers what it was asked for."""

    adaptive = True
    takes = ("text",)
    uses = ()
    label = "Plays"

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def signature(self) -> dict:
        return {"plays": 1}

    def prepare(self, context: Context) -> None:
        self.ready = True

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        assert self.ready
        self.seeds += [item.seed for item in items]
        made = []
        for item in items:
            draw = np.random.RandomState(item.seed % 2**32)
            low = float(draw.uniform(20, 3000))
            made.append(Music(0.3 * wave(item.seed % 2**32, low=low, high=4 * low), {"low": low}))
        return made


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator("pocket_fast", "pocket", adapter="few_step", sampling={})


def context(generator: Generator | None = None, **lent) -> Context:
    lenders = {name: (lambda one=one: one) for name, one in lent.items()}
    if generator is not None:
        lenders["generator"] = lambda: generator
    return Context(RATE, "cpu", 0, lenders)


# Shaping another method's music


def test_shaped_music_masks_better_at_the_level_that_it_had():
    inner = Plays()
    method = Shaped("Shaped", inner, price=2.0)
    assert (method.takes, method.uses, method.adaptive) == (("noise", "text"), (), True)
    method.prepare(context())
    items = [given("a", seed=1), given("b", seed=2, noise=wave(4, low=500.0, high=900.0))]
    made, plain = method.generate(items), inner.generate(items)
    for item, one, before in zip(items, made, plain, strict=True):
        level = audio.integrated_loudness(before.waveform, RATE)
        assert audio.integrated_loudness(one.waveform, RATE) == pytest.approx(level, abs=0.01)
        assert ratio(item.noise, one.waveform) < ratio(item.noise, before.waveform) - 0.5
        assert one.facts["low"] == before.facts["low"] and one.facts["nmr_shaped"] < one.facts["nmr_flat"]


def test_a_wrapper_is_told_apart_by_what_it_wraps_and_how():
    signatures = [
        Shaped("x", Plays()).signature(),
        Shaped("x", Plays(), price=3.0).signature(),
        Shaped("x", TextToMusic("t", FAST)).signature(),
        Shaped("x", TextToMusic("t", FAST | {"steps": 5})).signature(),
        BestOf("x", Plays(), count=2).signature(),
        BestOf("x", Plays(), count=3).signature(),
    ]
    texts = [json.dumps(one, sort_keys=True, default=str) for one in signatures]
    assert len(set(texts)) == len(texts)
    assert json.dumps(Shaped("another name", Plays()).signature()) == json.dumps(signatures[0])


def test_silence_stays_silent():
    class Silent(Plays):
        def generate(self, items):
            return [Music(torch.zeros(item.samples)) for item in items]

    for method in (Shaped("s", Silent()), BestOf("b", Silent(), count=2)):
        method.prepare(context())
        (made,) = method.generate([given()])
        assert not bool(made.waveform.any())


@pytest.mark.parametrize("kind", [Shaped, BestOf])
@pytest.mark.parametrize("of", [None, "bnmusic"])
def test_what_wraps_no_method_says_so(kind, of):
    with pytest.raises(BlendbenchError, match="`of` is no method"):
        kind("x", of)


# Best of several


def test_the_candidate_that_masks_best_is_taken():
    inner, item = Plays(), given()
    method = BestOf("Best", inner, count=5)
    method.prepare(context())
    (best,) = method.generate([item])
    assert len(set(inner.seeds)) == 5 and inner.seeds[0] == item.seed
    ratios = [ratio(item.noise, Plays_of(seed).waveform) for seed in inner.seeds]
    assert ratios.index(min(ratios)) == best.facts["candidate"]
    assert best.facts["score"] == pytest.approx(min(ratios), abs=0.01)
    # Fewer candidates are the first of more.
    fewer = BestOf("Best", again := Plays(), count=2)
    fewer.prepare(context())
    fewer.generate([item])
    assert again.seeds == inner.seeds[:2]


def Plays_of(seed: int) -> Music:
    inner = Plays()
    inner.ready = True
    return inner.generate([given(seed=seed)])[0]


def test_a_judge_keeps_to_what_sounds_like_music(shared_data: Path):
    """With a large weight the candidate nearest to real music is taken, whatever it masks."""
    songs = sorted((shared_data / "MusicBench/data").glob("*.ogg"))[::17]
    half = MusicHalf([MusicClip(file.stem, file, "", file.stem, "") for file in songs])
    real = audio.extend_circular(files.read(songs[3], RATE), 2 * RATE)

    class OneIsReal(Plays):
        def generate(self, items):
            self.seeds += [item.seed for item in items]
            third = len(self.seeds) == 3
            return [Music(real if third else item.noise.clone()) for item in items]

    judge = PocketTagger("pocket-tagger")
    for weight, chosen in ((0.0, 0), (100.0, 2)):
        method = BestOf("Best", OneIsReal(), count=3, weight=weight, judge=judge)
        assert method.uses == (("music",) if weight else ())
        method.prepare(context(music=half))
        assert method.generate([given(noise=wave(9))])[0].facts["candidate"] == chosen


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"count": 0}, "count is 0"), ({"weight": -1.0}, "weight is -1.0"), ({"weight": 1.0}, "needs a judge")],
)
def test_best_of_names_a_wrong_setting(settings, message):
    with pytest.raises(BlendbenchError, match=message):
        BestOf("x", Plays(), **settings)


# Text alone, and guided


def test_text_alone_does_not_look_at_the_noise(generator):
    method = TextToMusic("Text", FAST, lufs=-20.0, griffin_lim_iterations=4)
    method.prepare(context(generator))
    one, other = given(noise=wave(1)), given(noise=wave(2, low=3000.0))
    made = [method.generate([item.only(method.takes)])[0] for item in (one, other)]
    assert torch.equal(made[0].waveform, made[1].waveform)
    assert len(made[0].waveform) == one.samples
    assert audio.integrated_loudness(made[0].waveform, RATE) == pytest.approx(-20.0, abs=0.01)
    assert not torch.equal(method.generate([replace(one, seed=8).only(("text",))])[0].waveform, made[0].waveform)
    assert not torch.equal(method.generate([given(text="punk").only(("text",))])[0].waveform, made[0].waveform)


def test_guidance_lowers_the_ratio_by_its_weight_and_at_none_is_text_alone(generator):
    items = [given("a", seed=3, noise=wave(5, 5.0, high=1500.0))]
    ratios = []
    for weight in (0.0, 0.1, 0.4):
        method = MaskingGuided("Guided", FAST, weight=weight, griffin_lim_iterations=4)
        method.prepare(context(generator))
        made = method.generate(items)[0].waveform
        ratios.append(ratio(items[0].noise, made))
        if weight == 0:
            text = TextToMusic("Text", FAST, griffin_lim_iterations=4)
            text.prepare(context(generator))
            assert torch.equal(made, text.generate(items)[0].waveform)
    assert ratios[0] > ratios[1] > ratios[2] and ratios[2] < ratios[0] - 2, ratios


@pytest.mark.soak
def test_guidance_goes_through_a_stable_diffusion_decoder_and_holds_no_gradients_of_its_weights(tmp_path):
    """AutoencoderKL's three channels and factor of 8, as the published checkpoints have them."""
    tiny_diffusion(tmp_path / "parts").save(tmp_path / "model")
    generator = Generator("tiny", str(tmp_path / "model"))
    items = [given("a", seed=3, noise=wave(5, high=1500.0)), given("b", seed=4, noise=wave(6, low=2000.0))]
    made = []
    for weight in (0.0, 0.5):
        sampling = {"steps": 6, "guidance_scale": 2.0, "scheduler": "ddim"}
        method = MaskingGuided("Guided", sampling, weight=weight, griffin_lim_iterations=2)
        method.prepare(context(generator))
        window = Window(method.noise_images(items)[0], items)
        image = decode_image(method.paint(window).music, 1.0)
        made.append(MelMasking(decode_image(window.pixels, 1.0)).ratio_db(image))
    assert bool((made[1] < made[0]).all()), made
    model = generator.get("cpu")
    for part in (model.vae, model.unet, model.text_encoder):
        assert not any(weight.requires_grad for weight in part.parameters())


@pytest.mark.soak
def test_guidance_of_an_item_does_not_depend_on_its_batch(generator):
    items = [given("a", seed=3, noise=wave(5, high=1500.0)), given("b", seed=4, noise=wave(6, low=2000.0))]
    method = MaskingGuided("Guided", FAST, weight=0.1, griffin_lim_iterations=2)
    method.prepare(context(generator))
    together = method.generate(items)
    for item, one in zip(items, together, strict=True):
        alone = method.generate([item])[0].waveform
        assert float((alone - one.waveform).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (MaskingGuided, {"weight": -0.1}, "weight is -0.1"),
        (MaskingGuided, {"until": 1.0}, "until is 1.0"),
        (MaskingGuided, {"inner_steps": 0}, "inner_steps is 0"),
        (TextToMusic, {"lufs": 3.0}, "lufs is 3.0"),
    ],
)
def test_sampling_methods_name_a_wrong_setting(kind, settings, message):
    with pytest.raises(BlendbenchError, match=message):
        kind("x", FAST, **settings)


# The masking model on mel images


def test_mel_ratio_follows_the_full_model():
    """Of one music over another by the full model, within a few decibels."""
    noise = wave(1, 5.0, high=2000.0)
    tunes = [wave(10 + i, 5.0, low=low, high=high) for i, (low, high) in
             enumerate([(0, 20_000), (100, 3000), (2000, 9000), (50, 500), (500, 2500)])]  # fmt: skip
    full = np.array([ratio(noise, tune) for tune in tunes])
    masking = MelMasking(mel_amplitudes(noise)[None].expand(len(tunes), -1, -1))
    quick = masking.ratio_db(torch.stack([mel_amplitudes(tune) for tune in tunes])).numpy()
    assert np.abs((full - full.mean()) - (quick - quick.mean())).max() < 4, (full, quick)


def test_mel_ratio_gates_loudness_so_that_a_short_event_is_as_loud_as_it_is_measured():
    """A short noise in silence: music that goes on and music that is as short, in the same order and as far apart."""
    event = 1e-4 * wave(1, 5.0)
    event[44_100:57_100] += wave(2, 5.0)[:13_000]
    on, short = wave(3, 5.0), 1e-4 * wave(4, 5.0)
    short[44_100:57_100] += wave(5, 5.0)[:13_000]
    full = np.array([ratio(event, tune) for tune in (on, short)])
    masking = MelMasking(mel_amplitudes(event)[None].expand(2, -1, -1))
    quick = masking.ratio_db(torch.stack([mel_amplitudes(tune) for tune in (on, short)])).numpy()
    # Without the gate they were 9 dB apart in place of 3.
    assert np.diff(full) == pytest.approx(np.diff(quick), abs=2.0), (full, quick)


def test_mel_ratio_does_not_change_with_gain_or_unit_and_has_the_right_gradient():
    noise, tune = mel_amplitudes(wave(1)), mel_amplitudes(wave(2, low=300.0))
    ratios = [
        float(MelMasking(a * noise[None]).ratio_db(b * tune[None])[0]) for a, b in ((1, 1), (1, 0.01), (32767, 5))
    ]
    assert ratios[1] == pytest.approx(ratios[0], abs=1e-3) and ratios[2] == pytest.approx(ratios[0], abs=1e-3)
    masking = MelMasking(noise[None])
    image = tune.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(masking.ratio_db(image[None])[0], image)
    direction = tune * torch.randn(tune.shape, generator=torch.Generator().manual_seed(0))
    up, down = (float(masking.ratio_db((tune + step * direction)[None])) for step in (1e-2, -1e-2))
    assert (up - down) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=0.02)


# In a run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beyond") / "store"


@pytest.fixture(scope="module")
def run_dir(world: World, store: Path) -> Path:
    assert world.with_store(store).run(store.parent / "run", *WORDS) == 0
    return store.parent / "run"


WORDS = [
    "limit=2", "report=false", "+method@arms.shaped=shaped", "+method@arms.best=best_of",
    "arms.shaped.of=${arms.bnmusic}", "arms.best.of=${arms.bnmusic}", "arms.best.count=2",
    "+method@arms.nested=best_of", "arms.nested.of=${arms.shaped}", "arms.nested.count=2",
    "arms.random_music=null", "arms.musicgen_melody=null", "arms.riffusion_a2a=null", "arms.noise_only=null",
    "presentations.direct=null", "+presentations.alone={kind:alone,label:Alone}",
    "metric=[fad,kl,audibility,cost]", "experiment.metrics=[fad,kl,noise_to_mask_ratio,cost]",
]  # fmt: skip


@pytest.mark.soak
def test_what_a_method_builds_on_is_made_once(store, run_dir):
    """An arm's music is found by the arm that wraps it; of two candidates one alone is new."""
    rows = {(row["arm"], row["presentation"], row["pair_id"]): row for row in rows_of(run_dir)}
    made = {
        json.loads((folder / "signature.json").read_text())["method"].rsplit(".", 1)[-1]
        + json.loads((folder / "signature.json").read_text()).get("handed", "")
        for folder in (store / "music").iterdir()
    }
    assert {"BNMusic", "BNMusiccandidate 1", "Shaped", "BestOf"} <= made
    for (arm, shown, pair), row in rows.items():
        assert row["status"] == "ok", row
        if arm == "shaped":
            plain = rows["bnmusic", shown, pair]
            # What it builds on is its first arm's music: its cost is that one's and a little more.
            assert plain["cost_s"] <= row["cost_s"] <= plain["cost_s"] + row["shape_s"] + 0.01
        if arm == "best":
            assert row["cost_s"] > rows["bnmusic", shown, pair]["cost_s"]
            assert row["candidate"] in (0, 1)


def test_candidates_of_a_wrapper_are_made_of_candidates(store, run_dir):
    """What lies below knows that it was handed another seed: each candidate is shaped from music of its own."""
    shelves = {}
    for folder in (store / "music").iterdir():
        made = json.loads((folder / "signature.json").read_text())
        shelves[made["method"].rsplit(".", 1)[-1], made.get("handed", "")] = {
            file.name: files.read(file, RATE) for file in folder.glob("*.wav")
        }
    for kind in ("BNMusic", "Shaped"):
        first, second = shelves[kind, ""], shelves[kind, "candidate 1"]
        assert first.keys() == second.keys() and len(first) == 2
        assert not any(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_music_alone_is_heard_without_the_noise(run_dir):
    import soundfile

    for row in rows_of(run_dir):
        if row["presentation"] != "alone":
            continue
        heard = torch.from_numpy(soundfile.read(run_dir / row["mix"], dtype="float32")[0])
        mixed = soundfile.read(run_dir / row["mix"].replace("alone", "loudness_normalized"), dtype="float32")[0]
        level = audio.integrated_loudness(heard, RATE) + row["attenuation_db"]
        assert level == pytest.approx(row["noise_lufs"], abs=0.05)
        assert not np.allclose(heard.numpy(), mixed, atol=1e-3)


def test_which_points_are_beaten():
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0), (4.0, 1.0)]
    assert beaten(points) == [False, False, True, True, False, False]


def test_the_table_leaves_out_what_is_not_defined_of_music_alone(run_dir):
    head = next(line for line in (run_dir / "table.md").read_text().splitlines() if line.startswith("| Method"))
    assert "Alone: FAD" in head and "Loudness normalised: NMR" in head and "Alone: NMR" not in head


def test_a_wrapper_is_listed_with_what_its_method_takes(capsys):
    from support.worlds import call

    assert call("list", "methods", "--json") == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["methods"]}
    for name in ("shaped", "best_of"):
        assert found[name]["takes"] == ["noise", "text"] and found[name]["tasks"] == ["blend"]
        assert found[name]["here"] is True and found[name]["uses"] == ["generator"]
