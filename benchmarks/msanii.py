"""What a call of Msanii's network costs: seconds, memory and operations, by the length of the piece.

    .venv/bin/python benchmarks/msanii.py [--seconds 10 60 190] [--sizes built_in small paper]

Each length is measured in a process of its own: the best of `--repeats` calls (one at the paper's size), the memory
that the call took beyond the model, and multiplications from the layers' sizes, as the published layout has them.
`built_in` is the built-in model, of one channel at 22,050 Hz, whose kernels reach over frames alone; `small` is the
same width with the published kernels of three rows; `paper` has 49,878,016 parameters and two channels at 44,100 Hz.
The last column is each size's time a frame over that at the shortest length: 1 where cost is linear in length.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import nn

from blendbench.models import msanii
from blendbench.models.msanii import FrontEnd, UNet

_SMALL = {"mels": 96, "width": 160, "levels": 5, "blocks": 1, "attention_levels": 2, "heads": 5, "timestep": 96}
SIZES = {
    "built_in": (FrontEnd(22_050, 1024, 512, 96), 1, _SMALL | {"across": 1}),
    "small": (FrontEnd(22_050, 1024, 512, 96), 1, _SMALL),
    "paper": (FrontEnd(), 2, {}),
}


def multiplications(unet: UNet, channels: int, frames: int) -> float:
    """Multiplications of one call, from the layers' sizes; attention's products of features are counted, too."""
    total = [0.0]

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            total[0] += inputs[0].numel() * module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        elif isinstance(module, nn.Conv2d):
            total[0] += output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        elif isinstance(module, msanii._Attention):
            total[0] += 2 * output.numel() * (output.shape[1] // module.heads)

    hooks = [module.register_forward_hook(count) for module in unet.modules()]
    with torch.device("meta"), torch.no_grad():
        unet.to("meta")(torch.zeros(1, channels, unet.config["mels"], frames), torch.zeros(1))
    for hook in hooks:
        hook.remove()
    return total[0]


def one(size: str, seconds: float, repeats: int) -> dict[str, float]:
    """A call's figures, in this process."""
    front, channels, words = SIZES[size]
    torch.manual_seed(0)
    unet = UNet(**words).eval()
    frames = front.frames(front.extended(round(seconds * front.sample_rate), unet.factor))
    x, when, taken = torch.randn(1, channels, front.mels, frames), torch.tensor([500]), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            unet(x, when)
            taken.append(time.perf_counter() - start)
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    gmac = multiplications(unet, channels, frames) / 1e9
    return {"frames": frames, "seconds": min(taken), "megabytes": megabytes, "gmac": gmac}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0, 190.0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(one(words.one[0], float(words.one[1]), int(words.one[2]))))
        return
    print(f"{'size':<9} {'s of music':>10} {'frames':>7} {'s a call':>9} {'us a frame':>11} {'MB':>6} {'GMAC':>7} "
          f"{'GMAC/s':>7} {'linear':>7}")  # fmt: skip
    for size in words.sizes:
        first = 0.0
        for seconds in words.seconds:
            repeats = 1 if size == "paper" else words.repeats
            command = [sys.executable, __file__, "--one", size, str(seconds), str(repeats)]
            got = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            each = 1e6 * got["seconds"] / got["frames"]
            first = first or each
            print(
                f"{size:<9} {seconds:>10g} {got['frames']:>7} {got['seconds']:>9.3f} {each:>11.0f} "
                f"{got['megabytes']:>6.0f} {got['gmac']:>7.1f} {got['gmac'] / got['seconds']:>7.1f} "
                f"{each / first:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
