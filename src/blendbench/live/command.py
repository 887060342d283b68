"""The command `blendbench live`."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blendbench import single
from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.live import streams
from blendbench.live.engine import play
from blendbench.live.painter import Painter
from blendbench.methods._images import ImageMethod
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair


@dataclass(frozen=True)
class Wanted:
    """What the command line asks.

    Attributes
    ----------
    source : str
        A file, "-" for standard input, "device" or "device:NAME".
    target : str
        Likewise, for standard output.
    emit : str
        "mix" or "music".
    stream : Format
        Of standard input where it is raw, and the kind of standard output.
    free : bool
        Wait for music rather than keep time.
    """

    source: str
    target: str
    emit: str
    stream: streams.Format
    free: bool


def live(prompt: str, wanted: Wanted, settings: dict[str, Any]) -> str:
    """Play music that hides a noise while it sounds; returns what became of it, in a line.

    Raises
    ------
    BlendbenchError
        If the prompt, the source, the target or the model cannot be used.
    """
    single.check_prompt(prompt)
    run = Run(Path("live"), settings)
    task = single.blend_task(run)
    method = single.method_of(run, task)
    if not isinstance(method, ImageMethod):
        raise BlendbenchError(f"method: {method.label} does not paint window by window; take method=bnmusic")
    source = _source(wanted)
    single.loaded(run, method)
    pair = Pair("live", NoiseClip("live", Path("live"), "", "live"), Prompt("prompt", "", prompt))
    given = NoiseAndText(pair, stable_seed(run.seed, prompt), 0, torch.zeros(0), prompt)
    shown = task.presentation("direct", {"kind": "direct", "label": "Direct"})
    painter = Painter(method, given, shown, wanted.free)
    with ExitStack() as stack:
        sink = _sink(wanted, source.channels)
        stack.callback(sink.close)
        blocks = source if wanted.free or wanted.source.startswith("device") else streams.paced(source)
        report, listened = play(blocks, painter, [(sink, wanted.emit == "mix")], wanted.free)
    return report.told(painter) + ("" if listened else "; nobody listened any more")


def _source(wanted: Wanted) -> streams.Source:
    if wanted.source == "-":
        return streams.of_stream(sys.stdin.buffer, wanted.stream)
    if wanted.source.partition(":")[0] == "device":
        return streams.of_device(wanted.source.partition(":")[2] or None)
    return streams.of_file(Path(wanted.source))


def _sink(wanted: Wanted, channels: int) -> streams.Sink:
    if wanted.target == "-":
        return streams.StreamSink(sys.stdout.buffer, wanted.stream.kind)
    if wanted.target.partition(":")[0] == "device":
        return streams.DeviceSink(wanted.target.partition(":")[2] or None, channels)
    return streams.FileSink(Path(wanted.target), channels)
