"""The built-in models' autoencoder of images: patches in, latents out, with convolutions at the latents' size only.

Every patch of 8x8 pixels is projected linearly to its latents and back, as in a transform coder, and two small
stacks of residual blocks at the latents' size add what lines and hits that cross patches have in common. Convolutions
at full size, where a KL autoencoder of Stable Diffusion spends its time, are not needed, and the linear path can start
from the principal components of real patches, so that training starts from a good reconstruction.

The interface is that of diffusers' `AutoencoderKL`, so diffusers' Stable Diffusion pipelines run with it.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional


@torch.no_grad()
def _set(layer: nn.Conv2d, weight: torch.Tensor | float = 0.0, bias: torch.Tensor | float = 0.0) -> None:
    for parameter, value in zip(layer.parameters(), (weight, bias), strict=True):
        parameter.copy_(torch.as_tensor(value))


class _Residual(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        _set(self.second)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.second(functional.silu(self.first(functional.silu(self.norm(features)))))


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Autoencoder of images [N, 3, H, W] in -1..1 to latents [N, latent_channels, H / 8, W / 8].

    Parameters
    ----------
    latent_channels : int
        Numbers kept of every 64 pixels.
    width : int
        Channels of the residual blocks.
    encoder_blocks, decoder_blocks : int
        Residual blocks on each side.
    groups : int
        Groups of their group normalisation.
    scaling_factor : float
        Factor that brings the latents to unit variance.
    in_channels, out_channels : int
        Always 3: a grey image stands in all three.
    block_out_channels : list of int
        Only its length is read, by diffusers: a side of a patch is 2 ** (length - 1) pixels.
    sample_size : int
        Side of the images trained on, in pixels.
    colour : bool
        Whether the three channels differ; else their mean is what is seen.

    Raises
    ------
    ValueError
        If an image's side is no multiple of the patch's.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 96,
        encoder_blocks: int = 2,
        decoder_blocks: int = 4,
        groups: int = 8,
        scaling_factor: float = 1.0,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (1, 4, 16, 64),
        sample_size: int = 512,
        colour: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.colour = 2 ** (len(block_out_channels) - 1), colour
        pixels = self.patch**2 * (3 if colour else 1)
        self.project = nn.Conv2d(pixels, latent_channels, 1)
        self.encoder_in = nn.Conv2d(pixels, width, 3, padding=1)
        self.encoder = nn.Sequential(*(_Residual(width, groups) for _ in range(encoder_blocks)))
        self.encoder_out = nn.Conv2d(width, latent_channels, 3, padding=1)
        self.expand = nn.Conv2d(latent_channels, pixels, 1)
        self.decoder_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.decoder = nn.Sequential(*(_Residual(width, groups) for _ in range(decoder_blocks)))
        self.decoder_out = nn.Conv2d(width, pixels, 3, padding=1)
        _set(self.encoder_out)
        _set(self.decoder_out)

    def to_latents(self, images: torch.Tensor) -> torch.Tensor:
        """Latents [N, latent_channels, H / 8, W / 8], not scaled, of images [N, 3, H, W] in -1..1."""
        if images.shape[-1] % self.patch or images.shape[-2] % self.patch:
            raise ValueError(f"image of {tuple(images.shape[-2:])} pixels: sides must be multiples of {self.patch}")
        patches = self._patches(images)
        return self.project(patches) + self.encoder_out(self.encoder(self.encoder_in(patches)))

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        seen = images if self.colour else images.mean(1, keepdim=True)
        return functional.pixel_unshuffle(seen, self.patch)

    def to_images(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, H, W], about -1..1, of latents that are not scaled."""
        patches = self.expand(latents) + self.decoder_out(self.decoder(self.decoder_in(latents)))
        return functional.pixel_shuffle(patches, self.patch).expand(-1, 3, -1, -1)

    def encode(self, images: torch.Tensor, return_dict: bool = True) -> Any:
        """`to_latents` as diffusers asks for it: a distribution, here without spread."""
        latents = self.to_latents(images)
        posterior = DiagonalGaussianDistribution(torch.cat([latents, torch.full_like(latents, -30.0)], 1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, latents: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """`to_images` as diffusers asks for it; `generator` is not used."""
        images = self.to_images(latents)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def enable_slicing(self) -> None:
        """Nothing to do: the memory for a batch is small."""

    @torch.no_grad()
    def start_from_patches(self, images: torch.Tensor, whitening: float = 0.5) -> None:
        """Set the linear path to the principal components of the patches of images [N, 3, H, W].

        The latents' standard deviations are the components' to the power of 1 - `whitening`: with 0 the diffusion
        model meets the patches' own spectrum, with 1 all components at one level.
        """
        patches = self._patches(images)
        flat = patches.movedim(1, -1).flatten(0, -2).double()
        mean = flat.mean(0)
        variances, directions = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        kept = self.config.latent_channels
        directions = directions.flip(1)[:, :kept]
        # A direction's sign is arbitrary; fixed, so that trainings can be compared.
        directions = directions * directions[directions.abs().argmax(0), torch.arange(kept)].sign()
        scale = variances.flip(0)[:kept].clamp(min=1e-8) ** (-whitening / 2)
        project = (directions * scale).T
        _set(self.project, project[:, :, None, None], -project @ mean)
        _set(self.expand, (directions / scale)[:, :, None, None], mean)
