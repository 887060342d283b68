"""What Msanii's methods share: from recordings to scaled spectrograms, denoising with progress, and back to sound.

A recording is brought to the model's rate and channels and, where it has one, its level; it is repeated to a length
that the U-Net takes, and what is made is cut back. A model of one channel hears a recording's mean, and what it makes
is in all channels alike.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blendbench import telling
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.models.batches import in_parts
from blendbench.models.mel_diffusion import After, Denoiser, calls_of, denoise, repaint, repaint_times, times_from
from blendbench.models.msanii import Msanii, MsaniiCheckpoint
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.sound.inversion import griffin_lim
from blendbench.sound.lattice import MelSettings
from blendbench.tasks import Given, Music

KEPT_EVERY = 20.0
"""Seconds between two states on disk, where states are kept."""


@dataclass(frozen=True)
class Phase:
    """How magnitudes and phases come of scaled spectrograms.

    Parameters
    ----------
    vocoder : "neural" or "pseudo_inverse"
        Which magnitudes: the vocoder's, or those of the mel bank's pseudo-inverse.
    iterations : int
        Of fast Griffin-Lim.
    start : "random", "peaks" or "zero"
        Starting phase.
    """

    vocoder: Literal["neural", "pseudo_inverse"] = "neural"
    iterations: int = 200
    start: Literal["random", "peaks", "zero"] = "random"

    def __post_init__(self) -> None:
        if self.vocoder not in ("neural", "pseudo_inverse") or self.start not in ("random", "peaks", "zero"):
            raise BlendbenchError(
                f"phase: vocoder {self.vocoder!r}, start {self.start!r}; choose neural or pseudo_inverse, and random, "
                "peaks or zero"
            )
        if self.iterations < 0:
            raise BlendbenchError(f"phase.iterations is {self.iterations}; give 0 or more")


@dataclass(frozen=True)
class Encoded:
    """A recording as the model has it: scaled, [channels, mels, frames], and what undoes its level."""

    scaled: Tensor
    gain: float


class MsaniiMethod:
    """A method that samples from Msanii; `_made` says what of.

    Parameters
    ----------
    label : str
        Row name.
    model : dict
        Fields of `MsaniiCheckpoint`, without `key`.
    phase : dict
        Fields of `Phase`.

    Raises
    ------
    BlendbenchError
        If a field is unknown or out of range.
    """

    takes: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    adaptive = False

    def __init__(self, label: str, model: dict[str, Any], phase: dict[str, Any]) -> None:
        self.label = label
        try:
            self.checkpoint, self.phase = MsaniiCheckpoint("msanii", **model), Phase(**phase)
        except TypeError as error:
            raise BlendbenchError(f"arm {label!r}: {error}; mend that entry") from error
        except BlendbenchError as error:
            raise BlendbenchError(f"arm {label!r}: {error}") from error
        self.states: Path | None = None

    def own(self) -> dict[str, Any]:
        """The method's own settings, for its signature."""
        raise NotImplementedError

    def signature(self) -> dict[str, Any]:
        """The model, how sound comes of it, and the method's own settings."""
        return {"model": self.checkpoint.signature(), "phase": vars(self.phase)} | self.own()

    def prepare(self, context: Context) -> None:
        """Load the model."""
        self.sample_rate, self.channels, self.device = context.sample_rate, context.channels, context.device
        self.model: Msanii = self.checkpoint.get(context.device)

    def keep_states(self, folder: Path) -> None:
        """Keep the state of what is being made in a folder, and go on from one that is there."""
        self.states = folder

    def generate(self, given: list[Any]) -> list[Music]:
        """Music of every item; on a CPU one after the other, so that none depends on its neighbours."""
        made: list[Music] = []
        with torch.inference_mode():
            for part in in_parts(torch.device(self.device), len(given)):
                made += self._made(given[part])
        return made

    def _made(self, given: Sequence[Any]) -> list[Music]:
        """Music of items that go through the network together, of one length."""
        raise NotImplementedError

    def frames_of(self, samples: int) -> tuple[int, int]:
        """Samples at the model's rate of so many at the task's, and frames that the U-Net takes of them."""
        own = max(1, round(samples * self.model.front.sample_rate / self.sample_rate))
        return own, self.model.front.frames(self.model.front.extended(own, self.model.unet.factor))

    def encode(self, waveform: Tensor, name: str = "recording") -> Encoded:
        """A recording [samples] or [channels, samples] at the task's rate, as the model has it.

        Raises
        ------
        ClipError
            If it is silent, not finite, or has more than two channels.
        """
        wave = waveform if waveform.ndim == 2 else waveform[None]
        if len(wave) > 2:
            raise ClipError(f"{name} has {len(wave)} channels; give one or two")
        if not bool(torch.isfinite(wave).all()):
            raise ClipError(f"{name} holds NaN or infinity; repair the file")
        if self.model.channels == 1:
            wave = wave.mean(0, keepdim=True)
        elif len(wave) == 1:
            wave = wave.expand(2, -1)
        rms = float(wave.double().square().mean().sqrt())
        if not rms > 1e-7 or bool((wave == wave[..., :1]).all()):
            raise ClipError(f"{name} is silent, or one value throughout; give music")
        gain = 1.0 if self.model.level is None else self.model.level / rms
        front = self.model.front
        low = audio.resample(wave.float(), self.sample_rate, front.sample_rate) * gain
        if low.shape[-1] <= front.n_fft // 2:
            raise ClipError(f"{name} has {wave.shape[-1]} samples; give at least {front.n_fft // 2 + 1} at "
                            f"{front.sample_rate:,} Hz")  # fmt: skip
        whole = audio.extend_circular(low, front.extended(low.shape[-1], self.model.unet.factor))
        return Encoded(self.model.encode(whole[None].to(self.device))[0], gain)

    def silence(self, samples: int) -> Tensor:
        """A spectrogram of the shape that so many samples at the task's rate have, of zeros."""
        return torch.zeros(self.model.channels, self.model.front.mels, self.frames_of(samples)[1], device=self.device)

    def sound(self, scaled: Tensor, seed: int, samples: int, gain: float = 1.0) -> Tensor:
        """A waveform of the task's channels from a scaled spectrogram [channels, mels, frames]."""
        front = self.model.front
        magnitudes = self.model.magnitudes(scaled[None], self.phase.vocoder == "neural")[0].float()
        settings = MelSettings(
            front.sample_rate, front.n_fft, front.n_fft, front.hop, front.mels, 0.0, front.sample_rate / 2
        )
        seeds = [stable_seed(seed, "phase", channel) for channel in range(len(magnitudes))]
        with telling.stage("phase", bar=False):
            low = griffin_lim(magnitudes, settings, self.phase.iterations, seeds=seeds, start=self.phase.start).cpu()
        wave = audio.resample(low / gain, front.sample_rate, self.sample_rate)
        wave = torch.nn.functional.pad(wave, (0, max(0, samples - wave.shape[-1])))[..., :samples]
        if self.channels == 1:
            return wave.mean(0)
        return wave.expand(self.channels, -1).clone() if len(wave) == 1 else wave

    @contextmanager
    def network(self, calls: int, state: "State | None") -> Iterator[tuple[Denoiser, After]]:
        """The U-Net as a denoiser, and what is told after each of so many calls: progress, and the state to be kept."""
        dtype = next(self.model.unet.parameters()).dtype
        with telling.stage("denoise", calls, "call") as told:

            def denoiser(x: Tensor, times: Tensor) -> Tensor:
                return self.model.unet(x.to(dtype), times).to(x)

            def after(number: int, x: Tensor) -> None:
                told.update()
                if state is not None:
                    state.keep(number, x)

            yield denoiser, after

    def denoised(self, x: Tensor, top: int, steps: int, given: Sequence[Given]) -> Tensor:
        """Spectrograms at a time down to clean ones (`mel_diffusion.denoise`), going on from a state that is there."""
        state, first = self.state("denoise", given), 0
        if state is not None and (found := state.load()):
            first, x = found[0], found[1].to(x)
        with self.network(len(times_from(top, steps)) - first, state) as (model, after):
            return denoise(model, x, top, steps, first, after)

    def generators(self, given: Sequence[Given], step: str) -> list[torch.Generator]:
        """A generator an item, for one step."""
        return [torch.Generator().manual_seed(stable_seed(one.seed, step)) for one in given]

    def facts(self, scaled: Tensor, began: float, count: int) -> dict[str, Any]:
        """What a row tells of how it was made."""
        seconds = round((time.perf_counter() - began) / count, 3)
        own: dict[str, Any] = {"frames": scaled.shape[-1], "cost_s": seconds}
        learnt = self.model.frames
        return own | ({"beyond_training": True} if learnt is not None and scaled.shape[-1] > learnt else {})

    def image(self, scaled: Tensor) -> Tensor:
        """A spectrogram [channels, mels, frames] as an image, channels averaged, low mels below, 0..255."""
        return ((scaled.mean(0).flip(0).float().cpu() + 1) * 127.5).clamp(0, 255)

    def state(self, name: str, given: Sequence[Given]) -> "State | None":
        """Where what is being made is kept, if it is."""
        if self.states is None:
            return None
        return State(self.states, name, json.dumps([self.signature(), [one.seed for one in given]], sort_keys=True))


class Painting(MsaniiMethod):
    """A method that paints with RePaint.

    Parameters
    ----------
    label, model, phase
        See `MsaniiMethod`.
    steps, jump, resample, eta, renoise
        See `mel_diffusion.repaint`.
    """

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        steps: int,
        jump: int,
        resample: int,
        eta: float,
        renoise: Literal["diffusers", "exact"],
    ) -> None:
        super().__init__(label, model, phase)
        self.walk = {"steps": steps, "jump": jump, "resample": resample}
        self.calls = calls_of(repaint_times(**self.walk))[0]
        self.eta, self.renoise = eta, renoise

    def own(self) -> dict[str, Any]:
        """RePaint's walk."""
        return self.walk | {"eta": self.eta, "renoise": self.renoise}

    def repainted(self, clean: Tensor, keep: Tensor, given: Sequence[Given], step: str) -> Tensor:
        """Spectrograms with what is not kept painted, going on from a state that is there; the last one stays."""
        generators, state = self.generators(given, step), self.state(step.replace(" ", ""), given)
        begun, first = None, 0
        if state is not None:
            state.generators = generators
            if found := state.load():
                first, begun = found[0], found[1].to(clean)
        with self.network(self.calls - first, state) as (model, after):
            x = repaint(
                model, clean, keep, generators, **self.walk, eta=self.eta, renoise=self.renoise, begun=begun,
                first=first, after=after,
            )  # fmt: skip
        if state is not None:
            state.keep(self.calls, x, now=True)
        return x


class State:
    """What is being made, on disk: a stopped command goes on from it.

    Parameters
    ----------
    folder : Path
    name : str
        Of the step.
    key : str
        What it belongs to; a state of something else is passed over.
    """

    def __init__(self, folder: Path, name: str, key: str) -> None:
        self.file, self.key = folder / f"state-{name}.safetensors", key
        self._last = time.monotonic()
        self.generators: Sequence[torch.Generator] = ()

    def load(self) -> tuple[int, Tensor] | None:
        """Calls done and the state after them, with the generators set to where they were; None if there is none."""
        from safetensors import SafetensorError, safe_open

        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as opened:
                told = opened.metadata()
            held = load_file(self.file)
        except (OSError, SafetensorError):
            return None
        if told.get("key") != self.key:
            return None
        for number, generator in enumerate(self.generators):
            generator.set_state(held[f"generator{number}"])
        return int(told["calls"]), held["x"]

    def keep(self, calls: int, x: Tensor, *, now: bool = False) -> None:
        """Write it, every `KEPT_EVERY` seconds."""
        if not now and time.monotonic() - self._last < KEPT_EVERY:
            return
        self._last = time.monotonic()
        held = {"x": x.cpu().contiguous()}
        held |= {f"generator{number}": one.get_state() for number, one in enumerate(self.generators)}
        partial = self.file.with_suffix(".partial")
        save_file(held, partial, metadata={"calls": str(calls), "key": self.key})
        partial.replace(self.file)


def needed(given: Any, field: str, label: str) -> Tensor:
    """A recording that an item must have; raises ClipError where it has none."""
    wave = getattr(given, field)
    if wave is None:
        raise ClipError(f"{given.item.id}: there is no {field}, which {label} needs; choose a data set that has one")
    return torch.as_tensor(wave)
