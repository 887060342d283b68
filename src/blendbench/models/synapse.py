"""MeLFusion's visual synapse: what a frozen image model makes of a picture, mixed into a music model's decoder.

In each decoder block l of the music model that attends to text, keys and values become

    K = a_l K_image + (1 - a_l) K_text,        V alike,

where K_text and V_text are those of its cross-attention and K_image, V_image those of the image model's
*self*-attention at the same place (MeLFusion, eq. 6 and Fig. 2). The paper's code does otherwise, and so may a setting
here: it mixes text states with the outputs of the image model's cross-attention (`fuse: context`), or attention's
outputs (`output`).

Features are [B, tokens, channels], in the image model's raster order, and are averaged to as many tokens as the text
has. Where the two models' widths differ, two linear layers a place bring keys and values to the music's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from blendbench.errors import BlendbenchError
from blendbench.models.denoisers import Conditions, Network, unet_network
from blendbench.models.visual import Visual, Way

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FUSES = ("kv", "context", "output")
POOLS = ("raster", "grid")
PERS = ("block", "attention")


@dataclass(frozen=True)
class SynapseSettings:
    """How the two models are joined.

    Parameters
    ----------
    fuse : {"kv", "context", "output"}
        Keys and values, as in the paper; the text's states, or attention's outputs, as in its code.
    alpha : "learned" or float
        The image's share; a number in 0..1 is fixed.
    per : {"block", "attention"}
        What has a share of its own.
    init : float
        The learned share at first.
    blocks : tuple of int
        Decoder blocks that are joined, counted from 1 among those that attend to text.
    pool : {"raster", "grid"}
        Which tokens are averaged: neighbours in a row, or in a patch (along a Z-order curve). Only `kv` knows patches.
    """

    fuse: Literal["kv", "context", "output"] = "kv"
    alpha: float | str = "learned"
    per: Literal["block", "attention"] = "block"
    init: float = 0.1
    blocks: tuple[int, ...] = (1, 2, 3)
    pool: Literal["raster", "grid"] = "raster"

    def __post_init__(self) -> None:
        for name, known in (("fuse", FUSES), ("per", PERS), ("pool", POOLS)):
            if getattr(self, name) not in known:
                raise BlendbenchError(f"synapse.{name}={getattr(self, name)}: choose {', '.join(known)}")
        if self.alpha != "learned" and (isinstance(self.alpha, str) or not 0 <= self.alpha <= 1):
            raise BlendbenchError(f"synapse.alpha={self.alpha}: give learned, or a number from 0 to 1")
        if not 0 < self.init < 1:
            raise BlendbenchError(f"synapse.init={self.init}: give a number between 0 and 1")
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks or any(type(one) is not int or one < 1 for one in self.blocks):
            raise BlendbenchError(f"synapse.blocks={list(self.blocks)}: give decoder blocks, counted from 1")

    @property
    def is_off(self) -> bool:
        """Whether no image takes part, so that none is looked at: 0 times what an image model may make is no 0."""
        return self.alpha == 0


class Place(NamedTuple):
    """Two transformer blocks that are joined: the decoder block's number, and their names in the two U-Nets."""

    block: int
    music: str
    image: str


Features = Mapping[str, tuple[Tensor, ...]]
"""By a place's name in the music's U-Net: keys and values, or states."""


def attending(unet: "UNet2DConditionModel") -> list[list[str]]:
    """Names of the transformer blocks of each decoder block that attends to text, in order."""
    found = []
    for number, block in enumerate(unet.up_blocks):
        attentions = getattr(block, "attentions", None)
        if attentions is None:
            continue
        found.append(
            [
                f"up_blocks.{number}.attentions.{place}.transformer_blocks.{inner}"
                for place, attention in enumerate(attentions)
                for inner in range(len(attention.transformer_blocks))
            ]
        )
    return found


def places(music: "UNet2DConditionModel", image: "UNet2DConditionModel", blocks: Sequence[int]) -> list[Place]:
    """Where two U-Nets are joined; where one has fewer attentions in a block, its last one serves for the rest.

    Raises
    ------
    BlendbenchError
        If one of them has no such block.
    """
    own, others = attending(music), attending(image)
    most = min(len(own), len(others))
    chosen = [block for block in blocks if block <= len(own)] if blocks == (1, 2, 3) else list(blocks)
    if not chosen or max(chosen) > most:
        raise BlendbenchError(
            f"synapse.blocks={list(blocks)}: {len(own)} decoder blocks attend to text in the music's U-Net and "
            f"{len(others)} in the image's; name some of 1 to {most}"
        )
    return [
        Place(block, name, others[block - 1][min(index, len(others[block - 1]) - 1)])
        for block in chosen
        for index, name in enumerate(own[block - 1])
    ]


class Synapse(nn.Module):
    """Shares and, where widths differ, linear layers; it joins two U-Nets without changing either.

    Parameters
    ----------
    music, image : UNet2DConditionModel
    settings : SynapseSettings

    Raises
    ------
    BlendbenchError
        If the U-Nets cannot be joined so.
    """

    def __init__(self, music: "UNet2DConditionModel", image: "UNet2DConditionModel", settings: SynapseSettings) -> None:
        super().__init__()
        self.settings = settings
        self.places = places(music, image, settings.blocks)
        groups = list(dict.fromkeys(self._group(place) for place in self.places))
        self._row = {place.music: groups.index(self._group(place)) for place in self.places}
        start = 0.0 if settings.fuse != "kv" else float(torch.tensor(settings.init).logit())
        self.share = nn.Parameter(torch.full((len(groups),), start), requires_grad=settings.alpha == "learned")
        self.keys, self.values = nn.ModuleDict(), nn.ModuleDict()
        if settings.fuse == "kv":
            for place in self.places:
                given = image.get_submodule(place.image).attn1.to_k.out_features
                wanted = music.get_submodule(place.music).attn2.to_k.out_features
                if given != wanted:
                    for layers in (self.keys, self.values):
                        layers[_key(place)] = nn.Linear(given, wanted, bias=False)

    def _group(self, place: Place) -> Any:
        return place.block if self.settings.per == "block" else place.music

    def shares(self) -> Tensor:
        """The image's share by block or attention, [n].

        A sigmoid of what is learned; of the code's two ways (2 sigmoid(a) - 1) / 5, which begins at 0.
        """
        if self.settings.alpha != "learned":
            return torch.full_like(self.share, float(self.settings.alpha))
        opened = self.share.sigmoid()
        return opened if self.settings.fuse == "kv" else (2 * opened - 1) / 5

    # The image's side

    @contextmanager
    def watching(self, image: "UNet2DConditionModel") -> Iterator[Callable[[], dict[str, tuple[Tensor, ...]]]]:
        """While it lasts, what the image model's attentions make is noted; what is yielded gives it out, by place."""
        noted: dict[str, dict[str, Tensor]] = {}

        def note(name: str, what: str) -> Callable[..., None]:
            return lambda module, given, made: noted.setdefault(name, {}).__setitem__(what, made.detach())

        def taken() -> dict[str, tuple[Tensor, ...]]:
            kinds = ("keys", "values") if self.settings.fuse == "kv" else ("states",)
            return {place.music: tuple(noted[place.image][kind] for kind in kinds) for place in self.places}

        with ExitStack() as hooks:
            for name in dict.fromkeys(place.image for place in self.places):
                block = image.get_submodule(name)
                hooked: tuple[tuple[nn.Module, str], ...]
                if self.settings.fuse == "kv":
                    hooked = ((block.attn1.to_k, "keys"), (block.attn1.to_v, "values"))
                else:
                    hooked = ((block.attn2, "states"),)
                for module, what in hooked:
                    hooks.callback(module.register_forward_hook(note(name, what)).remove)
            yield taken

    def pooled(self, features: Features, tokens: int, width: int) -> dict[str, tuple[Tensor, ...]]:
        """Features with as many tokens as the text; for `context` with its width, too; for `output` as they are."""
        if self.settings.fuse == "output":
            return dict(features)
        if self.settings.fuse == "context":
            pool = nn.AdaptiveAvgPool2d((tokens, width))
            return {name: tuple(pool(one) for one in some) for name, some in features.items()}
        return {
            name: tuple(to_tokens(one, tokens, self.settings.pool) for one in some) for name, some in features.items()
        }

    # The music's side

    @contextmanager
    def mixing(self, music: "UNet2DConditionModel", features: Features) -> Iterator[None]:
        """While it lasts, the music's U-Net is told of a picture by pooled features, a row an item of its batch."""
        if self.settings.is_off:
            yield
            return
        shares = self.shares()
        with ExitStack() as hooks:
            for place in self.places:
                attention = music.get_submodule(place.music).attn2
                share = shares[self._row[place.music]]
                for module, pre, hook in self._hooks(place, attention, share, features[place.music]):
                    register = module.register_forward_pre_hook if pre else module.register_forward_hook
                    hooks.callback(register(hook, **({"with_kwargs": True} if pre else {})).remove)
            yield

    def _hooks(
        self, place: Place, attention: Any, share: Tensor, own: tuple[Tensor, ...]
    ) -> list[tuple[nn.Module, bool, Any]]:
        def mixed(text: Tensor, image: Tensor) -> Tensor:
            part = share.to(text)
            return part * image.to(text) + (1 - part) * text

        if self.settings.fuse == "context":

            def told(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
                return given, named | {"encoder_hidden_states": mixed(named["encoder_hidden_states"], own[0])}

            return [(attention, True, told)]
        if self.settings.fuse == "output":

            def put_out(module: nn.Module, given: Any, made: Tensor) -> Tensor:
                pool = nn.AdaptiveAvgPool2d(tuple(made.shape[-2:]))
                return mixed(made, pool(own[0].float()))

            return [(attention, False, put_out)]
        key = _key(place)
        keys, values = own
        if key in self.keys:
            # In the layers' own precision, whatever the image model's is.
            keys, values = self.keys[key](keys.to(self.share.dtype)), self.values[key](values.to(self.share.dtype))
        return [
            (attention.to_k, False, lambda module, given, made: mixed(made, keys)),
            (attention.to_v, False, lambda module, given, made: mixed(made, values)),
        ]


def _key(place: Place) -> str:
    return place.music.replace(".", "_")


def to_tokens(features: Tensor, tokens: int, pool: str = "raster") -> Tensor:
    """Features [B, S, C] averaged to so many tokens [B, tokens, C].

    `grid` takes the S tokens, a square, along a Z-order curve first, so that what is averaged are patches; `raster`
    averages along rows.
    """
    if pool == "grid":
        side = round(features.shape[1] ** 0.5)
        if side * side != features.shape[1]:
            raise BlendbenchError(
                f"synapse.pool=grid: {features.shape[1]} tokens are no square; give square pictures, or pool=raster"
            )
        features = features[:, z_order(side).to(features.device)]
    return functional.adaptive_avg_pool1d(features.transpose(1, 2), tokens).transpose(1, 2)


def z_order(side: int) -> Tensor:
    """Raster places [side * side] of a square's cells in Z order (Morton, 1966)."""
    bits = max(1, (side - 1).bit_length())
    cells = torch.arange(side * side)
    rows, columns = cells // side, cells % side
    code = sum((((columns >> bit) & 1) << (2 * bit)) | (((rows >> bit) & 1) << (2 * bit + 1)) for bit in range(bits))
    return torch.argsort(torch.as_tensor(code))


@dataclass(frozen=True)
class Track:
    """Pictures' features along their way through the image model.

    Attributes
    ----------
    times : Tensor [T]
        Time steps of the image model.
    features : list of Features
        At each, pooled, a row a picture.
    """

    times: Tensor
    features: list[dict[str, tuple[Tensor, ...]]]

    def at(self, time: float, items: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Features of some pictures [n] at the time step nearest to one of the music's."""
        nearest = self.features[int((self.times - time).abs().argmin())]
        return {name: tuple(one[items] for one in some) for name, some in nearest.items()}


@torch.no_grad()
def track(
    synapse: Synapse,
    visual: Visual,
    pictures: Tensor,
    way: Way,
    generators: Sequence[torch.Generator],
    tokens: int,
    width: int,
) -> Track:
    """Take pictures [B, 3, H, W] in -1..1 through the image model and keep what it makes of them.

    Parameters
    ----------
    tokens, width : int
        Of the text's states.
    """
    times, features = [], []
    with synapse.watching(visual.unet) as taken:
        for time, _ in visual.walk(pictures, way, generators):
            times.append(time)
            features.append(synapse.pooled(taken(), tokens, width))
    return Track(torch.tensor(times), features)


def with_pictures(music: "UNet2DConditionModel", synapse: Synapse, tracked: Track | None) -> Network:
    """A U-Net that is told of pictures beside text.

    Reads the conditions `text` [B, T, D] and `picture` [B]: which of the tracked pictures is an item's. Under guidance
    both halves are told of the picture.
    """
    network = unet_network(music)

    def predict(latents: Tensor, timestep: Tensor, given: Conditions) -> Tensor:
        if tracked is None or synapse.settings.is_off:
            return network(latents, timestep, given)
        with synapse.mixing(music, tracked.at(float(timestep), given["picture"])):
            return network(latents, timestep, given)

    return predict
