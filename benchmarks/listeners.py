"""Listeners who all rate at once: how long each kind of request takes them, and whether any answer is lost or doubled.

    python benchmarks/listeners.py [RUN_DIR] [--listeners 50] [--think 0,2] [--seconds 60] [--pages N] [key=value ...]

Plans a study of a copy of a finished run (`make demo` makes runs/demo), serves it by `blendbench listen` in a process
of its own, and lets listeners go through it from consent to thanks, as the page does: each sound is loaded once, each
rating sent at once, some changed. --think is the mean time between two answers, in seconds; each value is a round with
listeners of its own. Beside them someone asks for the bare front page, ten times a second: what that takes is what a
request costs, so the other times are given as multiples of it, too.

Then everything that was acknowledged is held against the database. Exit status 1 if anything is lost, doubled or made
up. Limit: 95 % of the ratings of 50 listeners are kept within 100 ms, beside 2 cores.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Times = dict[str, list[float]]
COMMAND = [sys.executable, "-c", "from blendbench.cli import main; main()", "listen"]


class Rated(NamedTuple):
    """What the server has acknowledged of a rating."""

    value: int
    changes: int


class Kept:
    """What the server has acknowledged: ratings by (listener, page, position, scale), seconds by (listener, page)."""

    def __init__(self) -> None:
        self.ratings: dict[tuple[int, int, str, str], Rated] = {}
        self.pages: dict[tuple[int, int], float] = {}


class Connection:
    """A connection that stays open, over which one request is made after the other."""

    def __init__(self, port: int, times: Times) -> None:
        self.port, self.times = port, times
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """What a GET, or a POST of a body, answers; notes under its kind how long that took."""
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(text)}\r\n"
        began = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(head.encode() + b"\r\n" + text)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", answer)
        assert length is not None, answer
        data = await reader.readexactly(int(length[1]))
        self.times[kind].append(time.perf_counter() - began)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{kind}: {answer.splitlines()[0].decode()}: {data.decode(errors='replace')}")
        return data

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Listener:
    """Someone who goes through a study, until its end or so many seconds or pages."""

    def __init__(self, number: int, token: str, port: int, times: Times, kept: Kept) -> None:
        self.number, self.at = number, f"/s/{token}/"
        self.connection, self.kept = Connection(port, times), kept
        self.draw = random.Random(number)
        self.heard: set[str] = set()

    async def go(self, think: float, until: float, pages: int | None) -> None:
        await asyncio.sleep(self.draw.uniform(0, think))  # nobody begins on the same stroke
        await self.connection.ask("page", self.at)
        state = await self._get("state")
        while state["step"] not in ("finished", "refused") and time.perf_counter() < until:
            if state["step"] == "consent":
                await self._think(think)
                state = await self._post("consent", agree=True)
            elif state["step"] == "volume":
                await self._hear([state["volume"]["clip"]])
                await self._think(think)
                state = await self._post("volume")
            elif state["step"] == "headphones":
                check = state["headphones"]
                await self._hear([check["clip"]])
                await self._think(think)
                answer = self.draw.randint(1, 3)
                state = await self._post("check", attempt=check["attempt"], trial=check["trial"], answer=answer)
            elif state["page"]["index"] == pages:
                break
            else:
                state = await self._rate(state, think, until)
        self.connection.close()

    async def _rate(self, state: dict[str, Any], think: float, until: float) -> dict[str, Any]:
        """Rate a page's clips, some twice, and go to the next."""
        page = state["page"]
        await self._hear([page["first"]["clip"], *(clip["clip"] for clip in page["clips"])])
        await self._hear(page["next"])
        began = time.perf_counter()
        todo = [(clip["place"], scale["name"]) for clip in page["clips"] for scale in state["scales"]]
        todo += self.draw.sample(todo, len(todo) // 4)
        for place, scale in todo:
            await self._think(think)
            if time.perf_counter() > until:
                return state
            value = self.draw.randint(1, 5)
            key = (self.number, page["index"], place, scale)
            answer = {"page": page["index"], "clip": place, "scale": scale, "value": value}
            await self._post("rate", **answer, stamp=time.time_ns() // 1000)
            before = self.kept.ratings.get(key)
            changes = 0 if before is None else before.changes + (before.value != value)
            self.kept.ratings[key] = Rated(value, changes)
        seconds = round(time.perf_counter() - began, 3)
        plays = {"first": 1, **{clip["place"]: self.draw.randint(1, 9) for clip in page["clips"]}}
        state = await self._post("next", page=page["index"], seconds=seconds, plays=plays)
        self.kept.pages[self.number, page["index"]] = seconds
        return state

    async def _think(self, think: float) -> None:
        await asyncio.sleep(self.draw.uniform(0.5, 1.5) * think)

    async def _hear(self, names: list[str]) -> None:
        for name in dict.fromkeys(names):
            if name not in self.heard:
                self.heard.add(name)
                await self.connection.ask("clip", f"{self.at}clips/{name}.flac")

    async def _get(self, what: str) -> dict[str, Any]:
        return json.loads(await self.connection.ask(what, self.at + what))

    async def _post(self, what: str, **body: Any) -> dict[str, Any]:
        return json.loads(await self.connection.ask(what, self.at + what, body))


async def round_of(
    tokens: dict[int, str], port: int, kept: Kept, think: float, seconds: float, pages: int | None
) -> Times:
    """All listeners at once; returns seconds by kind of request."""
    times: Times = defaultdict(list)
    until = time.perf_counter() + seconds

    async def front() -> None:
        connection = Connection(port, times)
        while True:
            await connection.ask("bare", "/")
            await asyncio.sleep(0.1)

    beside = asyncio.create_task(front())
    listeners = [Listener(number, token, port, times, kept) for number, token in tokens.items()]
    await asyncio.gather(*(one.go(think, until, pages) for one in listeners))
    beside.cancel()
    return times


def told(times: Times, seconds: float) -> None:
    """Print a round's times."""
    bare = float(np.percentile(times["bare"], 50))
    print(f"{'':<10}{'requests':>9}{'a second':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'p50 / bare':>11}")
    for kind in sorted(times, key=list(times).index):
        count, (p50, p95, p99) = len(times[kind]), np.percentile(times[kind], [50, 95, 99])
        print(
            f"{kind:<10}{count:>9}{count / seconds:>9.1f}{1000 * p50:>9.1f}{1000 * p95:>9.1f}{1000 * p99:>9.1f}"
            f"{p50 / bare:>11.1f}"
        )


def faults(run_dir: Path, kept: Kept) -> list[str]:
    """What the database holds otherwise than it was acknowledged, a line each."""
    from blendbench.listening import study
    from blendbench.listening.answers import Answers

    planned = study.read(run_dir)
    assert planned is not None
    answers = Answers(planned)
    rows = answers.export()
    found: dict[tuple[int, int, str, str], Rated] = {}
    pages: dict[tuple[int, int], float] = {}
    out = []
    for row in rows.itertuples():
        key = (int(row.listener), int(row.page), str(row.position), str(row.scale))
        if key in found:
            out.append(f"{key}: stands twice")
        found[key] = Rated(int(row.value), int(row.changes))
        if not np.isnan(row.page_s):
            pages[key[:2]] = float(row.page_s)
    for name, mine, theirs in (("rating", kept.ratings, found), ("page", kept.pages, pages)):
        for key in mine.keys() | theirs.keys():
            if mine.get(key) != theirs.get(key):
                out.append(f"{name} {key}: acknowledged {mine.get(key)}, kept {theirs.get(key)}")
    answers.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="?", default=Path("runs/demo"), metavar="RUN_DIR")
    parser.add_argument("--listeners", type=int, default=50)
    parser.add_argument("--think", default="0,2", metavar="SECONDS,...")
    parser.add_argument("--seconds", type=float, default=60.0, help="a round lasts no longer")
    parser.add_argument("--pages", type=int, help="so many pages a listener, not all")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings of the study")
    words = parser.parse_intermixed_args()
    thinks = [float(think) for think in words.think.split(",")]
    with tempfile.TemporaryDirectory() as place:
        run_dir = Path(place) / "run"
        shutil.copytree(words.run_dir, run_dir, ignore=shutil.ignore_patterns("listening"))
        count = words.listeners * len(thinks)
        subprocess.run(
            [*COMMAND, run_dir, "--plan", f"listeners={count}", *words.words], check=True, stdout=subprocess.DEVNULL
        )
        with (run_dir / "listening" / "links.csv").open(newline="") as file:
            links = {int(row["listener"]): row["link"].rstrip("/").rpartition("/")[2] for row in csv.DictReader(file)}
        server = subprocess.Popen(
            [*COMMAND, run_dir, "--port", "0"], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        kept = Kept()
        try:
            assert server.stdout is not None
            serving = next(line for line in server.stdout if line.startswith("serving on "))
            port = int(serving.split()[2].rstrip(";").rpartition(":")[2])
            for turn, think in enumerate(thinks):
                tokens = {n: token for n, token in links.items() if n // words.listeners == turn}
                began = time.perf_counter()
                times = asyncio.run(round_of(tokens, port, kept, think, words.seconds, words.pages))
                print(f"\n{len(tokens)} listeners, {think:g} s between answers")
                told(times, time.perf_counter() - began)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
        wrong = faults(run_dir, kept)
        print(f"\n{len(kept.ratings)} ratings and {len(kept.pages)} pages acknowledged; {len(wrong)} not kept as such")
        for line in wrong[:20]:
            print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
