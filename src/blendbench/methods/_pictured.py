"""What methods share that paint music from a caption and a picture, with the controls that show what it is good for.

In the blend task the picture is the noise's mel image; nothing has taught the models to hide a noise.
"""

import time
from typing import Any, Literal

import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window
from blendbench.models.denoisers import Denoiser
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.pictures import fit
from blendbench.sound import audio
from blendbench.sound.mel import encode_image, mel_of
from blendbench.tasks import Music

SHOWN = ("right", "other", "blank", "none", "music")


class PictureMethod(ImageMethod):
    """A method over a picture; what it loads is `load`, how it is told of pictures `denoiser`.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`.
    source : {"image", "noise"}
        What is shown: the item's picture, or the noise's mel image.
    shown : {"right", "other", "blank", "none", "music"}
        The item's own picture; another item's; a grey one; none, the synapse being left out; or the mel image of the
        music that belongs to the item, which gives the target away.
    lufs : float
        Loudness of the music where a picture is shown, since an image alone has none; over a noise it is the noise's.
    griffin_lim_iterations, overlap : int
        As for `ImageMethod`.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    peak = 60.0

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        source: Literal["image", "noise"] = "image",
        shown: Literal["right", "other", "blank", "none", "music"] = "right",
        lufs: float = -18.0,
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        if source not in ("image", "noise"):
            raise BlendbenchError(f"arm {label!r}: source is {source!r}; use image or noise")
        if shown not in SHOWN or (source == "noise" and shown == "music"):
            raise BlendbenchError(f"arm {label!r}: shown is {shown!r}; use one of {', '.join(SHOWN)}")
        if not -70 < lufs <= 0:
            raise BlendbenchError(f"arm {label!r}: lufs is {lufs}; give a loudness above -70 and at most 0")
        self.sees_noise, self.shown, self.lufs = source == "noise", shown, lufs
        self.takes = ("noise" if self.sees_noise else "image", "text")
        if shown == "music":
            self.takes = (*self.takes, "target")
        self.uses = ("generator", "others") if shown == "other" else ("generator",)

    def signature(self) -> dict[str, Any]:
        """As `ImageMethod`, and what is shown; a method adds its weights."""
        own = {"shown": self.shown, "lufs": None if self.sees_noise else self.lufs}
        return super().signature() | own

    def prepare(self, context: Context) -> None:
        """Load generator and model."""
        super().prepare(context)
        self._others = context.borrow("others") if self.shown == "other" else None
        self.model, self.size = self.load()

    def load(self) -> tuple[LatentDiffusion, int]:
        """The generator as the method has it, and the side in pixels of the pictures that are shown."""
        raise NotImplementedError

    def denoiser(self, texts: list[str], seen: torch.Tensor | None, seeds: list[int]) -> Denoiser:
        """The denoiser under texts and pictures [B, 3, size, size] in 0..1, or none; a seed an item."""
        raise NotImplementedError

    def generate(self, items: list[Any]) -> list[Music]:
        """Music of each item; those without a picture, where text alone is allowed, by themselves."""
        if self.sees_noise or all(item.image is not None for item in items):
            return super().generate(items)
        made: dict[int, Music] = {}
        for has_one in (True, False):
            places = [place for place, item in enumerate(items) if (item.image is not None) == has_one]
            made |= dict(zip(places, super().generate([items[place] for place in places]), strict=True))
        return [made[place] for place in range(len(items))]

    def paint(self, window: Window) -> Painted:
        """An image of the prompt and the picture; what is held stays."""
        start = time.perf_counter()
        seen = self.pictures(window)
        denoiser = self.denoiser(window.texts, seen, window.seeds("picture"))
        grey = self.from_nothing(self.model, window, window.texts, "text_to_image", denoiser=denoiser)
        kept = {} if seen is None else {"picture": 255 * seen.mean(1)}
        return Painted(grey, {"paint_s": time.perf_counter() - start}, kept)

    def pictures(self, window: Window) -> torch.Tensor | None:
        """What is shown for each item, [B, 3, size, size] in 0..1; None for nothing."""
        if self.shown == "none":
            return None
        if self.shown == "blank":
            return torch.full((len(window.items), 3, self.size, self.size), 0.5)
        own = [self._picture(item, index, window) for index, item in enumerate(window.items)]
        there = [fit(one, self.size) for one in own if one is not None]
        return torch.stack(there) if there else None

    def _picture(self, item: Any, index: int, window: Window) -> torch.Tensor | None:
        if self._others is not None:
            found: torch.Tensor = self._others.picture(item.item)
            return found
        if self.sees_noise:
            return (window.pixels[index] / 255).expand(3, -1, -1)
        if self.shown == "music":
            if item.target is None:
                raise ClipError(f"{item.item.id}: has no music of its own; leave {self.label} out")
            return (encode_image(mel_of(item.target)[None])[0][0] / 255).expand(3, -1, -1)
        picture: torch.Tensor | None = item.image
        return picture

    def finished(self, music: Music) -> Music:
        """At `lufs` where a picture was shown; music of a white image is silent."""
        if not self.sees_noise and bool(music.waveform.any()):
            music.waveform, _ = audio.normalize_loudness(music.waveform, self.context.sample_rate, self.lufs)
        return music
