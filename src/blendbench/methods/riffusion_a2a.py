"""Riffusion's audio-to-audio: a mel image is noised in part and denoised towards the prompt (SDEdit)."""

import time
from typing import Any, Literal

from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window, to_grey, to_model
from blendbench.models import sampling as samplers
from blendbench.sound.edges import Edges, edge_share


class RiffusionA2A(ImageMethod):
    """Baseline of BNMusic's tables, and of Riff-CNET's.

    Riffusion's page uses strength 0.55, guidance 7.0, 25 steps and DPM-Solver++; Riff-CNET's baselines strength 0.75,
    guidance 7 and 50 steps.

    Parameters
    ----------
    label, sampling, griffin_lim_iterations, overlap
        As for `ImageMethod`.
    source : {"noise", "background", "target"}
        What is noised: of the target, the mix as it was played, no method of use can know.
    hint : dict, optional
        Fields of `sound.edges.Edges`: the image's edges are noised in its place, as Riff-CNET's first baseline does.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    adaptive = False

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
        source: Literal["noise", "background", "target"] = "noise",
        hint: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        self.source, self.takes = source, (source, "text")
        self.edges = None if hint is None else Edges(**hint)

    def signature(self) -> dict[str, Any]:
        """As `ImageMethod`; what is noised where that is not the noise."""
        own = {} if self.source == "noise" else {"source": self.source}
        return super().signature() | own | ({} if self.edges is None else {"hint": self.edges.signature()})

    def paint(self, window: Window) -> Painted:
        """The image, noised in part and denoised; what is held stays."""
        model, start = self.generator.get(self.context.device), time.perf_counter()
        seeds = window.seeds("image_to_image")
        pixels, kept, facts = window.pixels, {}, {}
        if self.edges is not None:
            hints = self.edges.of(pixels)
            pixels, facts = 255 * hints[:, 0], {"edge_share": edge_share(hints)}
            kept = {"hint": pixels}
        if window.held is None:
            images = samplers.image_to_image(model, to_model(pixels), window.texts, seeds, self.sampling)
        else:
            masks = (~window.known())[None, None].float()
            images = to_model(window.with_held(pixels))
            images = samplers.masked_repaint(model, images, masks, window.texts, seeds, self.sampling)
        grey = to_grey(images, self.generator.quantize)
        return Painted(grey, {"paint_s": time.perf_counter() - start}, kept, facts)
