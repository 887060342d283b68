"""What the methods over mel images share: a given sound as images, windows over one that is longer, images as music.

What is painted over is the field of what is given that the method's `source` names: the noise of a blend, which the
names here speak of, or a background. A noise of up to 5.11 s is one image of 512 frames, as in the paper. A longer one
is painted window by window: each next window begins `overlap` frames before the last one ends, and holds what is
painted there, so that tempo, key and colour go on. All windows share one peak, that of the whole noise, so levels go
on, too. What comes of it is one image as long as the noise, whose phase is found in one (`sound.streaming`).

Pixels are grey, 0..255, loud is dark, low frequencies at the bottom.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.models import sampling as samplers
from blendbench.models.denoisers import Denoiser
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling
from blendbench.seeds import stable_seed
from blendbench.sound import audio, inversion
from blendbench.sound.lattice import RIFFUSION, extend_to_frames
from blendbench.sound.mel import decode_image, encode_image, mel_of, riffusion_mel
from blendbench.sound.streaming import StreamingInversion
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText

FRAMES = RIFFUSION.frames
OVERLAP = 128
"""Frames that a window shares with the one before: 1.28 s."""
_SEAM = 32
"""Frames at the overlap's end over which the held pixels go over into the new ones."""


@dataclass(frozen=True)
class Window:
    """What is painted at once.

    Attributes
    ----------
    pixels : Tensor [B, 512, 512]
        The noises.
    items : list of NoiseAndText
        Whose; the texts and seeds count.
    number : int
        Place in a longer noise; draws differ by it.
    held : Tensor [B, 512, overlap] or None
        What is painted already, the window's first columns.
    is_part : bool
        Whether the noise is longer than the window, which may then be silent.
    """

    pixels: torch.Tensor
    items: list[NoiseAndText]
    number: int = 0
    held: torch.Tensor | None = None
    is_part: bool = False

    def seeds(self, step: str) -> list[int]:
        """A seed an item for a step of a method."""
        place = (self.number,) if self.number else ()
        return [stable_seed(item.seed, step, *place) for item in self.items]

    @property
    def texts(self) -> list[str]:
        """Prompts."""
        return [item.text for item in self.items]

    def known(self) -> torch.Tensor:
        """Which pixels [512, 512] are held, as bool."""
        mask = torch.zeros(self.pixels.shape[-2:], dtype=torch.bool)
        if self.held is not None:
            mask[:, : self.held.shape[-1]] = True
        return mask

    def with_held(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images [B, 512, 512] with what is held in their first columns."""
        if self.held is None:
            return pixels
        return torch.cat([self.held.to(pixels), pixels[..., self.held.shape[-1] :]], dim=-1)

    def joined(self, grey: torch.Tensor) -> torch.Tensor:
        """A painted image [B, 512, 512] with what is held put back, going over into the new by the overlap's end."""
        if self.held is None:
            return grey
        overlap = self.held.shape[-1]
        weight = ((torch.arange(FRAMES) - (overlap - _SEAM)) / _SEAM).clamp(0, 1)
        return weight * grey + (1 - weight) * self.with_held(grey)


class Painted(NamedTuple):
    """What a method makes of a window."""

    music: torch.Tensor
    """[B, 512, 512]"""
    seconds: dict[str, float]
    """By step, for all items together"""
    images: dict[str, torch.Tensor] = {}
    """Further images [B, 512, 512], by name, for the curious"""
    facts: dict[str, torch.Tensor] = {}
    """Numbers [B] for the rows, by name"""


@dataclass
class Long:
    """What a long noise's music is made of, as far as it is painted; a stopped painting goes on from it.

    Attributes
    ----------
    number : int
        Windows painted.
    held : Tensor [512, overlap] or None
        The end of the last one.
    seconds : dict of str to float
        Spent, by step.
    """

    number: int = 0
    held: torch.Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class ImageMethod:
    """A method that paints with the run's generator; what a window becomes is its `paint`.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`.
    griffin_lim_iterations : int
        Iterations of the phase reconstruction.
    overlap : int
        Frames of 10 ms that a window of a long noise shares with the one before, a multiple of 32 from 32 to 480.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    source: str = "noise"
    takes: tuple[str, ...] = ("noise", "text")
    uses: tuple[str, ...] = ("generator",)
    adaptive: bool = False

    def __init__(
        self, label: str, sampling: dict[str, Any], griffin_lim_iterations: int = 24, overlap: int = OVERLAP
    ) -> None:
        if type(overlap) is not int or not _SEAM <= overlap <= FRAMES - _SEAM or overlap % _SEAM:
            raise BlendbenchError(
                f"arm {label!r}: overlap is {overlap}; give frames of 10 ms, a multiple of {_SEAM} from {_SEAM} to "
                f"{FRAMES - _SEAM}"
            )
        self.label, self.sampling, self.iterations = label, Sampling(**sampling), griffin_lim_iterations
        self.overlap = overlap

    def signature(self) -> dict[str, Any]:
        """Sampling and phase reconstruction; the overlap where it is not the usual one."""
        own = {"sampling": vars(self.sampling), "griffin_lim_iterations": self.iterations}
        return own | ({} if self.overlap == OVERLAP else {"overlap": self.overlap})

    def prepare(self, context: Context) -> None:
        """Load the generator; comes before `generate`."""
        self.context = context
        self.generator = context.borrow("generator")
        self.generator.get(context.device)

    def paint(self, window: Window) -> Painted:
        """The image of a window's music."""
        raise NotImplementedError

    def from_nothing(
        self,
        model: LatentDiffusion,
        window: Window,
        texts: list[str],
        step: str,
        around: samplers.Around | None = None,
        denoiser: Denoiser | None = None,
    ) -> torch.Tensor:
        """Grey pixels [B, 512, 512] painted from noise alone under texts; what is held stays.

        `step` names the draws; `around` and `denoiser` as for `sampling.text_to_image`.
        """
        seeds = window.seeds(step)
        height, width = window.pixels.shape[-2:]
        if window.held is None:
            images = samplers.text_to_image(
                model, texts, seeds, self.sampling, height, width, around=around, denoiser=denoiser
            )
        else:
            masks = (~window.known())[None, None].float()
            blank = to_model(window.with_held(torch.full_like(window.pixels, 255.0)))
            settings = replace(self.sampling, strength=1.0)
            images = samplers.masked_repaint(
                model, blank, masks, texts, seeds, settings, around=around, denoiser=denoiser
            )
        return to_grey(images, self.generator.quantize)

    def finished(self, music: Music) -> Music:
        """A music of its item's length as the method gives it out."""
        return music

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """Music of each item, at the level of the painted image; items longer than an image one by one."""
        long = [item.samples > RIFFUSION.samples for item in items]
        short = iter(self._short([item for item, is_long in zip(items, long, strict=True) if not is_long]))
        return [
            self.finished(self._long(item) if is_long else next(short))
            for item, is_long in zip(items, long, strict=True)
        ]

    def _short(self, items: list[NoiseAndText]) -> list[Music]:
        if not items:
            return []
        pixels, peaks = self.noise_images(items)
        painted = self.paint(Window(pixels, items))
        music, vocoded = to_music(painted.music, peaks, items, self.context, self.iterations)
        for index, made in enumerate(music):
            seconds = painted.seconds | {"vocode_s": vocoded}
            made.facts = {name: round(value / len(items), 3) for name, value in seconds.items()}
            made.facts |= {name: round(float(values[index]), 5) for name, values in painted.facts.items()}
            made.images = {self.source: pixels[index]} if self.source in self.takes else {}
            made.images |= {name: image[index] for name, image in painted.images.items()}
            made.images["music"] = painted.music[index]
        return music

    def _long(self, item: NoiseAndText) -> Music:
        """A noise of more than an image."""
        frames = 2 + item.samples // RIFFUSION.hop_length
        if self.source in self.takes:
            pixels, peaks = encode_image(self.mel(item)[None], quantize=self.generator.quantize)
            noise, peak = pixels[0], float(peaks[0])
        else:
            noise, peak = torch.full((RIFFUSION.n_mels, frames), 255.0), self.peak
        state, start = Long(), time.perf_counter()
        sound = StreamingInversion(peak, iterations=self.iterations, seed=item.seed, device=self.context.device)
        columns, waves = [], []
        for part in self.painted(noise[None], item, state, frames):
            columns.append(part)
            waves.append(sound.push(decode_image(part, peak)))
        waves.append(sound.finish())
        total = time.perf_counter() - start
        music = Music(audio.extend_circular(torch.cat(waves), item.samples).clone())
        spent = sum(state.seconds.values())
        music.facts = {name: round(value, 3) for name, value in state.seconds.items()}
        music.facts |= {"vocode_s": round(total - spent, 3), "windows": state.number}
        music.images = {self.source: noise} if self.source in self.takes else {}
        music.images["music"] = torch.cat(columns, dim=1)
        return music

    peak = 1.0
    """Mel amplitude of a black pixel where there is no noise to say so."""

    def noise_images(self, items: list[NoiseAndText]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels [B, 512, 512] (0..255, loud = dark) and peaks [B] of what is painted over, extended circularly."""
        if self.source not in self.takes:
            blank = torch.full((len(items), RIFFUSION.n_mels, FRAMES), 255.0)
            return blank, torch.full((len(items),), self.peak)
        if not self.generator.quantize:
            return encode_image(torch.stack([self.mel(item) for item in items]))
        # Riffusion's own bytes of the sound as a 16-bit file.
        waves = torch.stack([extend_to_frames(self.sound(item)) for item in items])
        pixels, peaks = encode_image(riffusion_mel(waves), quantize=True)
        return pixels, peaks / 32767

    def sound(self, item: Any) -> torch.Tensor:
        """What is painted over, [samples]; raises ClipError where the item has none."""
        sound: torch.Tensor | None = getattr(item, self.source)
        if sound is None:
            raise ClipError(f"{item.item.id}: has no {self.source}, which {self.label} takes; leave that arm out")
        return sound

    def mel(self, item: Any) -> torch.Tensor:
        """Its mel amplitudes [512, frames], extended circularly to one image; kept ones where there are any."""
        sound = self.sound(item)
        if self.source == "noise":
            kept: torch.Tensor = item.mel()
            return kept
        return mel_of(sound)

    def painted(
        self, noise: Iterable[torch.Tensor], item: NoiseAndText, state: Long, frames: int
    ) -> Iterator[torch.Tensor]:
        """Columns [512, n] of a long noise's music, window by window.

        Parameters
        ----------
        noise : iterable of Tensor [512, n]
            Columns of the noise's image from the first that `state` lacks, in parts of any size; what lacks at the end
            is its beginning once more.
        item : NoiseAndText
            Whose text and seed count.
        state : Long
            Brought up to date before each part is given out.
        frames : int
            Of the whole music; the last part is cut there.
        """
        step = FRAMES - self.overlap
        source, waiting = iter(noise), torch.empty(RIFFUSION.n_mels, 0)
        while True:
            while waiting.shape[1] < FRAMES and (more := next(source, None)) is not None:
                waiting = torch.cat([waiting, more], dim=1)
            if not waiting.shape[1]:
                return
            pixels = waiting[:, torch.arange(FRAMES) % waiting.shape[1]][None]
            begin = state.number * step
            is_last = begin + FRAMES >= frames
            waiting = waiting[:, step:]
            yield self.next_window(pixels, item, state, frames - begin if is_last else FRAMES - _SEAM)
            if is_last:
                return

    def next_window(
        self, pixels: torch.Tensor, item: NoiseAndText, state: Long, stop: int = FRAMES - _SEAM
    ) -> torch.Tensor:
        """Paint the next window over a noise's image [1, 512, 512]; returns its new columns [512, n] up to one.

        The last columns of a window go over into the next one's, so they are given out with those, unless `stop` says
        otherwise. `state` is brought up to date.
        """
        held = None if state.held is None else state.held[None]
        window = Window(pixels, [item], state.number, held, is_part=True)
        made = self.paint(window)
        music = window.joined(made.music)[0]
        for name, value in made.seconds.items():
            state.seconds[name] = state.seconds.get(name, 0.0) + value
        first = self.overlap - _SEAM if state.number else 0
        state.number, state.held = state.number + 1, music[:, FRAMES - self.overlap :].clone()
        return music[:, first:stop]


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """Images [B, 3, H, W] in -1..1 from grey pixels [B, H, W] in 0..255."""
    # In the order of diffusers' image processor, so that bytes become the same floats.
    return (2 * (pixels / 255) - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


def to_grey(images: torch.Tensor, quantize: bool) -> torch.Tensor:
    """Grey pixels [B, H, W] in 0..255 from images [B, 3, H, W] in -1..1.

    With `quantize` as diffusers makes an 8-bit image (rounded) and Riffusion reads it (the first channel).
    """
    if quantize:
        return ((images[:, 0].float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round()
    return ((images.float().mean(1).cpu() + 1) * 127.5).clamp(0, 255)


def to_music(
    pixels: torch.Tensor, peaks: torch.Tensor, items: list[NoiseAndText], context: Context, iterations: int
) -> tuple[list[Music], float]:
    """Music of each item's length from its grey image and the noise's peak, and the seconds that took.

    The level is the image's own: white is silence, black the noise's loudest mel amplitude.
    """
    start = time.perf_counter()
    mels = decode_image(pixels, peaks)
    waves = inversion.to_audio(mels.to(context.device), seeds=[item.seed for item in items], iterations=iterations)
    music = []
    for item, wave in zip(items, waves.cpu(), strict=True):
        music.append(Music(audio.extend_circular(wave, item.samples).clone()))
    return music, time.perf_counter() - start
