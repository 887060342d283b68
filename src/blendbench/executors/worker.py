"""A worker process: takes shards of a run, one after the other, and brings them to rows and scores.

`python -m blendbench.executors.worker RUN_DIR --device cuda:0` reads tasks from standard input, a JSON object a line,
and answers each with one on standard output. It ends with its input, so that none outlives who started it. Models stay
loaded from one shard to the next. All else that it prints goes to standard error.
"""

import argparse
import io
import json
import os
import queue
import resource
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from blendbench.errors import BlendbenchError, one_line


def open_plan(run_dir: Path, device: str, allow_targets: list[str], threads: int | None = None) -> Any:
    """The plan of a run that another process has begun, for this one's device; raises BlendbenchError."""
    from blendbench.runs.folder import Run
    from blendbench.runs.plan import prepare

    own = {"run_dir": str(run_dir), "device": device, "allow_targets": allow_targets}
    return prepare(Run.open(run_dir, **own, **({"threads": threads} if threads else {})))


def peak_bytes(device: str) -> int:
    """Most memory that this process has held so far: of the GPU with its context, or of the machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device) + 600 * 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def do(plan: Any, task: dict[str, Any], beat: Any) -> None:
    """Bring one shard to its end; `task` has "shard" and "of", and after a death "skip"."""
    from blendbench.runs.plan import Shard
    from blendbench.runs.work import work

    skip = frozenset((arm, item) for arm, item in task["skip"]) if "skip" in task else None
    beat.take((task["shard"], task["of"]))
    work(plan, Shard(task["shard"], task["of"]), beat, skip)
    beat.begin("waits")


def _tasks(stream: TextIO) -> "queue.Queue[dict[str, Any] | None]":
    """Tasks as they come; None after "quit". At the input's end without it, who gave the tasks is gone: end at once."""
    found: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            task = json.loads(line)
            found.put(None if task == "quit" else task)
            if task == "quit":
                return
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    return found


class _Log(io.TextIOBase):
    """Standard error that takes no harm from a full disk, on which its file lies."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)


def main(argv: list[str] | None = None) -> int:
    """The process's way from its arguments to its end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m blendbench.executors.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name")
    parser.add_argument("--allow-targets", nargs="*", default=[])
    words = parser.parse_args(argv)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    sys.stdout = sys.stderr = _Log(sys.stderr)
    tasks = _tasks(sys.stdin)

    from blendbench import telling
    from blendbench.runs.progress import Beat

    try:
        with telling.aloud(), Beat(words.run_dir, words.device, name=words.name) as beat:
            from blendbench.resources import quiet

            quiet()
            plan = open_plan(words.run_dir, words.device, words.allow_targets, words.threads)
            print(json.dumps({"ready": True}), file=answers)
            while (task := tasks.get()) is not None:
                do(plan, task, beat)
                print(json.dumps({"done": task["shard"], "peak": peak_bytes(words.device)}), file=answers)
    except BlendbenchError as error:
        print(json.dumps({"error": one_line(str(error))}), file=answers)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"crash": one_line(f"{type(error).__name__}: {error}")}), file=answers)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
