"""The similarity search against loops over all candidates, its refinements, and the published excerpts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import signal
from support.stimuli import GAP, LSB, PIECES, stimulus

from blendbench.errors import BlendbenchError, ClipError
from blendbench.tasks.long_gap.gap import Gap, paste
from blendbench.tasks.long_gap.similarity import (
    Match,
    Refinement,
    SimilaritySettings,
    chromagram,
    cost,
    find,
    frame_weights,
    guide,
    magnitudes,
)

SMALL = SimilaritySettings(
    sample_rate=4410, search_rate=1200, frame=64, hop=16, stft_reach=0.2, chroma_reach=0.5, refine_seconds=0.1
)
SMALL_GAP = Gap(2000, 4000)
REFINEMENTS: list[Refinement] = ["eq11", "context"]


def _noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _cost_by_loops(query: np.ndarray, gap: Gap, part: np.ndarray, at: int) -> float:
    """Equation 10 of candidate `at` hops into a part, a frame and a bin at a time, with the settings of SMALL."""
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 64) for n in range(64)]
    low_query, low_part = (signal.resample_poly(x, 40, 147) for x in (query, part))
    sums = {"stft": [0.0, 0.0], "chroma": [0.0, 0.0]}
    for frame in range((len(low_query) - 64) // 16 + 1):
        first, last = frame * 16 * 3.675, (frame * 16 + 64) * 3.675
        away = (gap.start - (first + last) / 2, (first + last) / 2 - gap.stop)
        if last > gap.start and first < gap.stop:
            continue
        theirs = low_part[(at + frame) * 16 :][:64]
        spectra = [np.abs(np.fft.rfft(x * window)) for x in (low_query[frame * 16 :][:64], theirs)]
        chromas = [[0.0] * 12, [0.0] * 12]
        for chroma, spectrum in zip(chromas, spectra, strict=True):
            for k in range(1, 33):
                chroma[round(69 + 12 * math.log2(k * 18.75 / 440)) % 12] += spectrum[k] ** 2
        for name, (ours, others), reach in (("stft", spectra, 0.2), ("chroma", chromas, 0.5)):
            weight = max(0.0, 1 - max(away) / 4410 / reach)
            for a, b in zip(ours, others, strict=True):
                sums[name][0] += weight * (a - b) ** 2
                sums[name][1] += weight * a**2
    return sum(math.sqrt(difference / norm) for difference, norm in sums.values())


# Features


def test_a_frame_is_an_unpadded_hann_window_at_the_search_rate() -> None:
    samples = _noise(5000).double().numpy()
    low = signal.resample_poly(samples, 40, 147)
    frames = magnitudes(samples, SMALL)
    assert frames.shape == ((len(low) - 64) // 16 + 1, 33)
    assert frames[7] == pytest.approx(np.abs(np.fft.rfft(low[112:176] * np.hanning(65)[:64])), abs=1e-12)


def test_no_frame_fits_a_waveform_shorter_than_one() -> None:
    assert magnitudes(np.ones(100), SMALL).shape == (0, 33)


@pytest.mark.parametrize(("hertz", "pitch_class"), [(440.0, 9), (261.63, 0), (523.25, 0), (1975.5, 11)])
def test_a_tone_falls_into_its_pitch_class(hertz: float, pitch_class: int) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(44_100) / 44_100)
    chroma = chromagram(magnitudes(tone))
    assert (chroma.argmax(1) == pitch_class).all()


def test_weights_fall_linearly_from_the_gap_and_are_0_where_a_frame_touches_it() -> None:
    settings = SimilaritySettings(sample_rate=100, search_rate=100, frame=10, hop=5)
    # Centres lie at 0.05, 0.10, ... s; the gap is [0.40, 0.60) s.
    weights = frame_weights(19, Gap(40, 60), 0.2, settings)
    expected = [0, 0, 0, 0, 0.25, 0.5, 0.75, 0, 0, 0, 0, 0, 0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert weights == pytest.approx(expected, abs=1e-12)


# Cost


def test_the_cost_of_every_candidate_agrees_with_plain_loops() -> None:
    query, part = _noise(6000, 1).double().numpy(), _noise(7111, 2).double().numpy()
    query[SMALL_GAP.start : SMALL_GAP.stop] = 0
    expected = [_cost_by_loops(query, SMALL_GAP, part, m) for m in range(int(1111 // 58.8) + 1)]
    assert cost(query, SMALL_GAP, part, SMALL) == pytest.approx(expected, abs=1e-9)


def test_the_clip_itself_costs_nothing() -> None:
    original = _noise(6000).double().numpy()
    settings = replace(SMALL, stft_reach=0.1, chroma_reach=0.1)
    assert cost(original, SMALL_GAP, original, settings) == pytest.approx([0], abs=1e-6)


def test_the_cost_is_the_same_at_any_common_level() -> None:
    query, part = _noise(6000, 1).double().numpy(), _noise(9000, 2).double().numpy()
    query[SMALL_GAP.start : SMALL_GAP.stop] = 0
    quiet = cost(1e-3 * query, SMALL_GAP, 1e-3 * part, SMALL)
    assert quiet == pytest.approx(cost(query, SMALL_GAP, part, SMALL), rel=1e-9)


def test_alphas_weigh_the_features() -> None:
    query, part = _noise(6000, 1).double().numpy(), _noise(9000, 2).double().numpy()
    stft, chroma, both = (
        cost(query, SMALL_GAP, part, replace(SMALL, stft_alpha=a, chroma_alpha=b)) for a, b in ((1, 0), (0, 1), (2, 3))
    )
    assert both == pytest.approx(2 * stft + 3 * chroma)


# Search


@pytest.mark.parametrize("refine", REFINEMENTS)
@pytest.mark.parametrize("offset", [0, 1, 20, 40, 1000, 3001, 3999])
def test_the_original_is_found_to_the_sample_wherever_it_lies(refine: Refinement, offset: int) -> None:
    original, others = _noise(6000), _noise(4000, 5)
    corpus = [_noise(8000, 6), torch.cat([others[:offset], original, others[offset:]])]
    match = find(original * SMALL_GAP.mask(6000), SMALL_GAP, corpus, replace(SMALL, refine=refine))
    assert (match.part, match.offset) == (1, offset)
    assert torch.equal(guide(match, corpus, 6000), original)


def test_the_original_is_found_at_the_very_end_of_a_part() -> None:
    original = _noise(6000)
    for offset in (3000, 3010, 3040, 3050, 3058):
        corpus = [torch.cat([_noise(offset, 5), original])]
        match = find(original, SMALL_GAP, corpus, replace(SMALL, refine="context"))
        assert match.offset == offset


def test_a_part_of_just_the_clips_length_is_one_candidate() -> None:
    match = find(_noise(6000), SMALL_GAP, [_noise(5999, 2), _noise(6000, 3)], SMALL)
    assert (match.part, match.offset) == (1, 0)


def test_of_equal_candidates_the_first_wins() -> None:
    part = _noise(9000)
    clip = part[1000:7000] * SMALL_GAP.mask(6000)
    assert find(clip, SMALL_GAP, [part, part], SMALL).part == 0


def test_what_lies_in_the_gap_is_not_read() -> None:
    clip, corpus = _noise(6000), [_noise(20_000, 2)]
    assert find(clip, SMALL_GAP, corpus, SMALL) == find(clip * SMALL_GAP.mask(6000), SMALL_GAP, corpus, SMALL)


def test_refinement_stays_within_half_a_hop_and_the_part() -> None:
    corpus = [_noise(20_000, 2)]
    coarse = find(_noise(6000), SMALL_GAP, corpus, replace(SMALL, refine="none"))
    for refine in REFINEMENTS:
        match = find(_noise(6000), SMALL_GAP, corpus, replace(SMALL, refine=refine))
        assert abs(match.offset - coarse.offset) <= 29
        assert match.distance == coarse.distance


def test_equation_11_minimises_the_steps_at_both_edges() -> None:
    clip, part = _noise(6000), _noise(20_000, 2)
    coarse = find(clip, SMALL_GAP, [part], replace(SMALL, refine="none")).offset
    steps = {
        o: abs(clip[1999] - part[o + 1999]) + abs(clip[4000] - part[o + 4000]) for o in range(coarse - 29, coarse + 30)
    }
    assert find(clip, SMALL_GAP, [part], SMALL).offset == min(steps, key=lambda o: float(steps[o]))


# Bad input


@pytest.mark.parametrize(
    ("corpus", "why"),
    [
        ([], "longest of 0 corpus parts"),
        ([_noise(5999), torch.zeros(0)], "longest of 2 corpus parts has 5999"),
        ([_noise(6000), torch.full((7000,), float("nan"))], "part 1 of the corpus holds NaN"),
        ([torch.zeros(2, 7000)], "part 0 of the corpus has shape"),
    ],
)
def test_a_corpus_that_cannot_serve_says_why(corpus: list[torch.Tensor], why: str) -> None:
    with pytest.raises(ClipError, match=why) as raised:
        find(_noise(6000), SMALL_GAP, corpus, SMALL)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("clip", "gap", "why"),
    [
        (torch.zeros(6000), SMALL_GAP, "no frame near the gap holds sound"),
        (_noise(6000), Gap(0, 10), "at an edge"),
        (_noise(6000), Gap(100, 5900), "no frame near the gap holds sound"),
        (torch.full((6000,), float("nan")), SMALL_GAP, "NaN"),
    ],
)
def test_a_clip_that_cannot_be_compared_says_why(clip: torch.Tensor, gap: Gap, why: str) -> None:
    with pytest.raises(ClipError, match=why):
        find(clip, gap, [_noise(9000, 2)], SMALL)


@pytest.mark.parametrize(
    ("setting", "why"), [({"refine": "eq12"}, "refine is 'eq12'"), ({"hop": 0}, "hop is 0"), ({"frame": -1}, "frame")]
)
def test_settings_out_of_range_are_refused(setting: dict, why: str) -> None:
    with pytest.raises(BlendbenchError, match=why):
        SimilaritySettings(**setting)


# The published excerpts


def _corpus(piece: str, condition: str) -> list[torch.Tensor]:
    other = stimulus(PIECES[1 - PIECES.index(piece)], "Original")
    return [torch.cat([other[:100_003], stimulus(piece, condition), other])]


@pytest.mark.parametrize("piece", PIECES)
def test_the_coarse_search_finds_the_original_within_half_a_hop(piece: str) -> None:
    match = find(stimulus(piece, "Degraded"), GAP, _corpus(piece, "Original"), SimilaritySettings(refine="none"))
    assert abs(match.offset - 100_003) <= 470


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("refine", REFINEMENTS)
def test_both_refinements_find_the_original_to_the_sample(piece: str, refine: Refinement) -> None:
    match = find(stimulus(piece, "Degraded"), GAP, _corpus(piece, "Original"), SimilaritySettings(refine=refine))
    assert match == Match(0, 100_003, match.distance)


@pytest.mark.parametrize("piece", PIECES)
def test_only_the_context_finds_published_sim_whose_edges_are_not_the_clips(piece: str) -> None:
    clip, corpus = stimulus(piece, "Degraded"), _corpus(piece, "Sim")
    assert find(clip, GAP, corpus, SimilaritySettings(refine="context")).offset == 100_003
    assert find(clip, GAP, corpus, SimilaritySettings(refine="eq11")).offset != 100_003


@pytest.mark.parametrize("piece", PIECES)
def test_pasting_the_original_found_restores_it(piece: str) -> None:
    clip, corpus = stimulus(piece, "Degraded"), _corpus(piece, "Original")
    found = guide(find(clip, GAP, corpus), corpus, len(clip))
    assert (paste(clip, found, GAP) - stimulus(piece, "Original")).abs().max() <= 1.01 * LSB


def test_lower_ranks_are_worse_places_apart_from_better_ones():
    whole = _noise(60_000)
    clip = whole[20_000:28_000]
    part = whole.clone()
    found = [
        find(clip, SMALL_GAP, [part], replace(SMALL, rank=rank, apart=1.0, refine="none")) for rank in (1, 2, 3, 6)
    ]
    assert abs(found[0].offset - 20_000) <= SMALL.hop_samples
    distances = [one.distance for one in found]
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[1]
    offsets = sorted(one.offset for one in found)
    assert min(np.diff(offsets)) >= 4410
    with pytest.raises(ClipError, match="corpus has no 99 candidates 1 s apart: ask for a lower rank"):
        find(clip, SMALL_GAP, [part], replace(SMALL, rank=99, apart=1.0))
    with pytest.raises(BlendbenchError, match="rank is 0: give a whole number from 1 up"):
        replace(SMALL, rank=0)
