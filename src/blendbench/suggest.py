"""Which prompt for this noise? `blendbench suggest`: prompts ranked by how well a cheap blend of each hides a noise.

The paper's own limitation is that a prompt which does not suit the noise blends badly. So each prompt gets a quick
painting (both paintings in two steps, no phase), whose noise-to-mask ratio is read off the mel image (`mel_masking`).
Outpainting alone would do worse than fewer steps: it leaves the noise's core in the music, where it hides itself.
The first of the ranking are then made into sound and measured as a run measures them, which gives the reasons.
"""

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from blendbench import single, telling
from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.methods._images import ImageMethod, Window
from blendbench.metrics import audibility
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio, masking_model
from blendbench.sound.mel import decode_image
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.mel_masking import MelMasking
from blendbench.tasks.blend.pairing import Pair

CHEAP = ["generator=pocket_fast", "generator.sampling.repaint.steps=2"]
"""Settings that make a blend quick, which the command line may override."""
_EDGES = (0, 200, 500, 1000, 2000, 4000, 8000, 15_500)
_RHYTHMIC = 0.35


@dataclass(frozen=True)
class Suggestion:
    """A prompt, and how well music of it hides the noise.

    Attributes
    ----------
    prompt : Prompt
    ratio_db : float
        Noise-to-mask ratio at equal loudness, by the quick painting's image.
    measured : dict of str to float
        `audibility.measure` of the quick painting as sound; empty where that was not made.
    reason : str
        What of the noise it hides and what not, and whether its rhythm helps; "" likewise.
    """

    prompt: Prompt
    ratio_db: float
    measured: dict[str, float]
    reason: str


class Suggesting:
    """A noise, ready for prompts.

    Parameters
    ----------
    noise_file : Path
        Of which the first `noise.seconds`, 5.11 s at most, count.
    settings : dict
        The checked configuration; `method` must be one that paints.

    Raises
    ------
    BlendbenchError
        If the noise or the method cannot be used.
    """

    def __init__(self, noise_file: Path, settings: dict[str, Any]) -> None:
        run = Run(Path("suggest"), settings)
        task = single.blend_task(run)
        method = single.method_of(run, task)
        if not isinstance(method, ImageMethod) or "noise" not in method.takes:
            raise BlendbenchError(f"method: {method.label} does not paint over a noise; take method=bnmusic")
        self.clip = NoiseClip(noise_file.stem, noise_file, "", noise_file.stem)
        self.noise = task.noises.read(self.clip)
        if len(self.noise) > audio.SAMPLE_RATE * 5.11:
            self.noise = self.noise[: 5 * audio.SAMPLE_RATE]
        self.method, self.seed = method, run.seed
        self.prompts = task.sources.prompts
        self.context = single.loaded(run, method)

    def given(self, prompt: Prompt, seed: int) -> NoiseAndText:
        """The noise and one prompt."""
        pair = Pair("file", self.clip, prompt)
        return NoiseAndText(pair, stable_seed(seed, prompt.text), len(self.noise), self.noise, prompt.text)

    def ratio(self, prompt: Prompt, seeds: int = 1) -> tuple[float, torch.Tensor]:
        """Noise-to-mask ratio in dB by the images of quick paintings, on the mean, and the first image."""
        given = [self.given(prompt, self.seed + number) for number in range(seeds)]
        pixels, _ = self.method.noise_images(given)
        painted = self.method.paint(Window(pixels, given)).music
        ratios = MelMasking(decode_image(pixels, 1.0)).ratio_db(decode_image(painted, 1.0))
        return float(ratios.mean()), painted[0]

    def ranked(self, seeds: int = 1, explain: int = 5) -> list[Suggestion]:
        """All prompts, the best first; the first `explain` of them measured as sound."""
        found = []
        with telling.stage("suggest", len(self.prompts), "prompt") as told:
            for prompt in self.prompts:
                found.append((*self.ratio(prompt, seeds), prompt))
                told.update()
        found.sort(key=lambda one: one[0])
        out = [Suggestion(prompt, ratio, {}, "") for ratio, _, prompt in found]
        for place in range(min(explain, len(out))):
            music = self.method.generate([self.given(out[place].prompt, self.seed)])[0].waveform
            if not bool(music.any()):
                continue
            leveled, _ = audio.normalize_loudness(
                music, audio.SAMPLE_RATE, audio.integrated_loudness(self.noise, audio.SAMPLE_RATE), "music"
            )
            measured = audibility.measure(self.noise, leveled)
            out[place] = replace(out[place], measured=measured, reason=reason(self.noise, leveled, measured))
        return out


def reason(noise: torch.Tensor, music: torch.Tensor, measured: dict[str, float]) -> str:
    """In words: where the noise is loudest, how much of it is masked there, what stands out, and the rhythm."""
    energies = masking_model.band_energies(masking_model.spectra(noise))
    threshold = masking_model.masked_threshold(masking_model.spectra(music))
    heard = energies > masking_model.quiet_threshold()
    centres = masking_model.band_centres()
    parts = []
    for low, high in itertools.pairwise(_EDGES):
        chosen = (centres >= low) & (centres < high)
        own = energies[chosen]
        counted = heard[chosen]
        if not bool(counted.any()):
            continue
        masked = float(((own <= threshold[chosen]) & counted).double().sum() / counted.double().sum())
        over = float((own / threshold[chosen])[counted].mean().log10() * 10)
        parts.append((f"{low} to {high} Hz", float(own.sum()), masked, over))
    loudest = max(parts, key=lambda part: part[1])
    worst = max(parts, key=lambda part: part[3])
    text = f"hides {100 * loudest[2]:.0f} % of {loudest[0]}, where the noise is strongest"
    if worst[3] > 3:
        text += f"; {worst[0]} stands out most, by {worst[3]:.0f} dB"
    onset = measured.get("onset_agreement", float("nan"))
    if onset >= _RHYTHMIC:
        text += f"; its rhythm meets the noise's (onset F {onset:.2f})"
    return text


def told(suggestions: list[Suggestion], count: int, seconds: float) -> str:
    """The first of a ranking, a line a prompt and a line of reasons, and the spread of all."""
    lines = []
    for place, one in enumerate(suggestions[:count], 1):
        genre = f"{one.prompt.genre}: " if one.prompt.genre else ""
        lines.append(f"{place:>3}  {one.ratio_db:5.1f} dB  {genre}{one.prompt.text}")
        if one.reason:
            lines.append(f"              {one.reason}")
    ratios = [one.ratio_db for one in suggestions]
    lines.append(
        f"noise-to-mask ratio at equal loudness, by quick paintings of {len(ratios)} prompts: {ratios[0]:.1f} dB the "
        f"best, {ratios[len(ratios) // 2]:.1f} in the middle, {ratios[-1]:.1f} the last; {seconds:.0f} s"
    )
    return "\n".join(lines)


def suggest(noise_file: Path, settings: dict[str, Any], count: int = 5, seeds: int = 1) -> str:
    """What the command prints; raises BlendbenchError as `Suggesting`."""
    start = time.perf_counter()
    ranked = Suggesting(noise_file, settings).ranked(seeds, count)
    return told(ranked, count, time.perf_counter() - start)
