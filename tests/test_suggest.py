"""Which prompt for this noise: the ranking, its reasons, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import RATE, World, call, noise_sound

from blendbench.composing import compose
from blendbench.datasets import Prompt
from blendbench.sound import audio, masking_model
from blendbench.suggest import CHEAP, Suggesting, Suggestion, reason, told

PROMPTS = "prompt,genre\nA calm jazz trio,Jazz\nLoud punk rock,Punk\nA house track,EDM\n"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "noise.wav", noise_sound(3, 2.0), RATE)
    (tmp_path / "prompts.csv").write_text(PROMPTS)
    return tmp_path / "noise.wav"


def words(world: World, noise: Path, *more: str) -> list[str]:
    return [
        "suggest", str(noise), f"generator.checkpoint={world.generator}", "generator.adapter=null",
        "method.griffin_lim_iterations=1", "prompts=file", f"prompts.file={noise.parent / 'prompts.csv'}", *more,
    ]  # fmt: skip


def test_prompts_are_ranked_with_reasons(world, noise, capsys):
    assert call(*words(world, noise, "--top", "2")) == 0
    lines = capsys.readouterr().out.splitlines()
    ranks = [line for line in lines if line.lstrip()[:1].isdigit()]
    assert len(ranks) == 2 and len([line for line in lines if "where the noise is strongest" in line]) == 2
    ratios = [float(line.split()[1]) for line in ranks]
    assert ratios == sorted(ratios)
    assert "paintings of 3 prompts" in lines[-1]
    assert call(*words(world, noise, "--top", "2")) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == lines[:-1]


def test_the_order_is_that_of_the_ratios(world, noise):
    settings = compose([*CHEAP, *words(world, noise)[2:]])
    suggesting = Suggesting(noise, settings)
    ranked = suggesting.ranked(explain=0)
    own = {prompt.text: suggesting.ratio(prompt)[0] for prompt in suggesting.prompts}
    assert [one.prompt.text for one in ranked] == sorted(own, key=own.__getitem__)
    assert all(not one.reason for one in ranked)
    # Two seeds give the mean of two paintings.
    first = suggesting.prompts[0]
    other = Suggesting(noise, settings | {"seed": 1}).ratio(first)[0]
    assert suggesting.ratio(first, seeds=2)[0] == pytest.approx((own[first.text] + other) / 2, abs=1e-3)


def test_reasons_name_what_is_hidden_and_what_is_not():
    time = torch.arange(2 * RATE) / RATE
    draw = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.sin(2 * torch.pi * 300 * time) + 0.005 * torch.sin(2 * torch.pi * 3000 * time)
    low = torch.randn(2 * RATE, generator=draw)
    low = torch.fft.irfft(torch.fft.rfft(low) * (torch.fft.rfftfreq(len(low), 1 / RATE) < 600), n=len(low))
    text = reason(noise, low, {"onset_agreement": 0.6})
    assert text.startswith("hides 100 % of 200 to 500 Hz, where the noise is strongest; 2000 to 4000 Hz stands out"), (
        text
    )
    assert "its rhythm meets the noise's (onset F 0.60)" in text
    assert "rhythm" not in reason(noise, low, {"onset_agreement": float("nan")})


def test_what_is_told_of_a_ranking():
    found = [Suggestion(Prompt("p", "", f"prompt {n}"), float(n), {}, "why" if n < 2 else "") for n in range(5)]
    lines = told(found, 3, 12.3).splitlines()
    assert lines[0] == "  1    0.0 dB  prompt 0" and lines[1].strip() == "why" and lines[4] == "  3    2.0 dB  prompt 2"
    assert "0.0 dB the best, 2.0 in the middle, 4.0 the last; 12 s" in lines[-1]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["method=text_to_music"], "does not paint over a noise"),
        (["--top", "0"], "--top and --seeds"),
        (["prompts.file=/nowhere.csv"], "nowhere"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(world, noise, capsys, more, text):
    assert call(*words(world, noise), *more) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and text in lines[0], lines


@pytest.mark.soak
def test_a_short_event_is_not_hidden_by_itself(tmp_path):
    """By the built-in generator: what a quick painting promises is about what a full blend keeps.

    Outpainting alone kept the event in the music: it promised 0 dB where a blend had 25.
    """
    draw = np.random.default_rng(0)
    event = 1e-4 * draw.standard_normal(5 * 44_100)
    event[13_000:33_000] += draw.standard_normal(20_000) * np.exp(-np.arange(20_000) / 6000) * 0.3
    soundfile.write(tmp_path / "event.wav", event, 44_100)
    quick, full = (
        Suggesting(tmp_path / "event.wav", compose(list(words))) for words in (CHEAP, ["generator=pocket_fast"])
    )
    for prompt in quick.prompts[:2]:
        music = full.method.generate([full.given(prompt, 1)])[0].waveform
        leveled, _ = audio.normalize_loudness(music, 44_100, -18.0)
        assert quick.ratio(prompt)[0] == pytest.approx(masking_model.ratio_of(full.noise, leveled), abs=10)
