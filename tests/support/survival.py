"""Runs that are killed again and again, and must end as if nothing had happened.

A process that has imported everything forks a child a command, so that a command starts at once and dozens of them fit
into a test.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Nursery:
    """Starts commands in forked children of one process that has imported what they need."""

    def __enter__(self) -> Self:
        paths = os.pathsep.join(one for one in sys.path if one)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
        words = [sys.executable, "-m", "support.survival"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, words: Sequence[str], log: Path) -> int:
        """Begin a command; returns its process number. Its output goes to a file."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([list(words), str(log)]) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def status(self) -> int:
        """Wait for the end of the command begun last; its exit status, or minus the signal that ended it."""
        return int(self._line())


def run_killed(
    nursery: Nursery, words: Sequence[str], log: Path, draw: random.Random, longest: float, most: int
) -> int:
    """Run a command, killed at random moments, at most so many times, and again until it ends; returns the kills."""
    kills = 0
    while True:
        child = nursery.start(words, log)
        if kills < most:
            ended = _wait(child, draw.uniform(0, longest))
            if not ended:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
        status = nursery.status()
        if status == 0:
            return kills
        if status != -signal.SIGKILL:
            raise AssertionError(f"the command ended with {status}: {log.read_text()[-2000:]}")
        kills += 1


def _wait(child: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.005)
    return False


def survive(
    nursery: Nursery,
    command: Callable[[Path], Sequence[str]],
    folder: Path,
    kills: int,
    seed: int,
    share: float = 0.5,
    check: Callable[[Path], None] = lambda run_dir: None,
) -> tuple[int, int, float]:
    """Kill runs until so many kills are done, and hold each finished one against an undisturbed one.

    Parameters
    ----------
    nursery : Nursery
    command : callable
        From a folder for run and store to the command's words; the run lies in `run` below it.
    folder : Path
    kills : int
    seed : int
    share : float
        A kill comes within this share of the time that an undisturbed run takes.
    check : callable
        What else must hold of a run's folder.

    Returns
    -------
    (kills, runs, seconds of the undisturbed run)
    """
    draw, log = random.Random(seed), folder / "log"
    began = time.monotonic()
    nursery.start(command(folder / "undisturbed"), log)
    assert nursery.status() == 0, log.read_text()[-2000:]
    seconds = time.monotonic() - began
    expected = (folder / "undisturbed" / "run" / "results.csv").read_bytes()
    done = runs = 0
    while done < kills:
        own = folder / f"{runs}"
        done += run_killed(nursery, command(own), log, draw, share * seconds, kills - done)
        runs += 1
        if (own / "run" / "results.csv").read_bytes() != expected:
            raise AssertionError(f"{own}: results.csv is not that of the undisturbed run")
        check(own / "run")
    return done, runs, seconds


def _serve() -> None:
    import diffusers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    from blendbench import cli
    from blendbench.methods import bnmusic, musicgen_melody, noise_only, random_music, riffusion_a2a  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        words, log = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                cli.main(words)
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code if isinstance(end.code, int) else 1)
            os._exit(99)
        with suppress(OSError):
            os.setpgid(child, child)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
