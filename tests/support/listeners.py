"""Listening studies for tests: planned from the tiny run, served by the real command in a process of its own."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

import blendbench
from blendbench.listening import settings
from blendbench.listening.settings import Settings
from blendbench.listening.study import Subject
from blendbench.tasks.blend.task import Blend
from support.worlds import call

BLEND = Subject(
    dict(Blend.columns), Blend.group, Blend.units, {**Blend.shared, **Blend.own}, "noise", ("per", "noise", "music")
)
"""What a study knows of the blend task."""

SMALL = (
    "samples=3",
    "practice=1",
    "catch_trials=1",
    "listeners=3",
    "headphone_check.trials=3",
    "headphone_check.needed=2",
)


def blend_settings(file: Path | None = None, words: Sequence[str] = ()) -> Settings:
    """Settings of a study of the blend task."""
    own = Path(blendbench.__file__).parent / "tasks" / "blend" / "study.yaml"
    return settings.read(yaml.safe_load(own.read_text(encoding="utf-8")), file, words)


def plan(finished: Path, run_dir: Path, *words: str) -> Path:
    """Copy the finished run and plan a study of it; returns the copy."""
    shutil.copytree(finished, run_dir)
    assert call("listen", str(run_dir), "--plan", *(SMALL + words)) == 0
    return run_dir


def tokens(run_dir: Path) -> list[str]:
    """Tokens of the study's listeners, by number."""
    with (run_dir / "listening" / "links.csv").open(newline="") as file:
        return [row["link"].rstrip("/").rpartition("/")[2] for row in csv.DictReader(file)]


def to_version_1(run_dir: Path) -> None:
    """Write a blend study's plan and settings as the first version of them had it."""
    folder = run_dir / "listening"
    plan = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for one in plan["samples"]:
        facts = one.pop("facts")
        one |= {name: facts[name] for name in ("label", "genre", "prompt")} | {"noise": one.pop("first")}
        assert one.pop("reference") is None
    assert plan.pop("hidden") == {} and plan.pop("subject")["first"] == "noise"
    (folder / "study.json").write_text(json.dumps(plan | {"version": 1}), encoding="utf-8")
    settings = yaml.safe_load((folder / "listen.study.yaml").read_text(encoding="utf-8"))
    for name in ("repeats", "hidden_reference", "anchor", "open_reference", "range", "unit"):
        del settings[name]
    for name in ("reference_below", "retest_difference"):
        del settings["exclusions"][name]
    (folder / "listen.study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


class Served:
    """A study while it is served; `stop` and `start` may be called again and again."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.port = run_dir, 0
        self.tokens = tokens(run_dir)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, on the same port as before, and return once it answers."""
        code = "from blendbench.cli import main; main()"
        words = [sys.executable, "-c", code, "listen", str(self.run_dir), "--port", str(self.port)]
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("serving on "):
                self.port = int(line.split()[2].rstrip(";").rpartition(":")[2])
                return
        raise AssertionError(f"the server ended with {self._process.wait()}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """End the server by a signal; returns its exit status."""
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(number)
        self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(timeout=30)

    def link(self, listener: int) -> str:
        """Address of a listener's page."""
        return f"http://127.0.0.1:{self.port}/s/{self.tokens[listener]}/"

    def get(self, listener: int, what: str = "state") -> Any:
        """What a GET below a listener's link answers, as JSON."""
        with urllib.request.urlopen(self.link(listener) + what, timeout=30) as answer:
            return json.load(answer)

    def post(self, listener: int, what: str, **body: Any) -> Any:
        """What a POST below a listener's link answers, as JSON."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.link(listener) + what, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def status(self, address: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of any request to the server, errors too; `content_type` stands for content-type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{address}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")


def to_pages(served: Served, listener: int) -> dict[str, Any]:
    """Bring a listener to the first page; returns the state there."""
    from blendbench.listening import study

    found = study.read(served.run_dir)
    assert found is not None
    served.post(listener, "consent", agree=True)
    state = served.post(listener, "volume")
    for trial, (_, answer) in enumerate(found.checks):
        state = served.post(listener, "check", attempt=0, trial=trial, answer=answer)
    return state
