"""The server of listening studies: what it gives to whom, in which order it takes answers, and that it keeps them."""

import asyncio
import csv
import hashlib
import http.client
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.listeners import Served, plan, to_pages, tokens
from support.worlds import call

from blendbench.listening import server, study
from blendbench.listening.answers import Answers

REPOSITORY = Path(__file__).resolve().parents[1]
EVIL = "\"'><script>alert(1)</script></title>\r\nx-evil: 1\r\n\r\n<h1>"
MOST = 100
"""Listeners of the study that the tests share; each test takes some of its own."""
HEADERS = {
    "content-security-policy", "cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy",
    "referrer-policy", "x-content-type-options", "x-frame-options", "x-robots-tag", "cache-control",
}  # fmt: skip
POSTS = ("consent", "volume", "check", "rate", "next", "withdraw")


class Reply(NamedTuple):
    """What a server has answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str:
        (value,) = [value for key, value in self.headers if key.lower() == name]
        return value


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Make a request with the path as it is; bytes are sent as they are, anything else as JSON.

    Every failure is held to the rule: one short line that tells nothing of the machine.
    """
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if body is not None:
        named = {"content-type": "application/json"} | named
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        reply = Reply(answer.status, answer.getheaders(), answer.read())
    if reply.status >= 400:
        plain(reply.body)
    return reply


def plain(body: bytes) -> None:
    """Hold the text of a failure to the rule."""
    text = body.decode()
    assert len(text) < 200 and len(text.strip().splitlines()) <= 1, text
    assert not any(word in text for word in ("Traceback", "/tmp", ".py", "site-packages", "sqlite", "Error", "<")), text


def raw(port: int, data: bytes) -> bytes:
    """What a server sends to bytes, until it closes, or has sent an answer's head to who may go on."""
    out = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(OSError):
        connection.sendall(data)
        while part := connection.recv(65536):
            out += part
            if b"\r\n\r\n" in out and b"connection: close" not in data:
                break
    return out


# Servers

ZYGOTE = """
import json, os, signal, sys
from contextlib import suppress
from pathlib import Path
import uvicorn, uvicorn.loops.auto, uvicorn.protocols.http.h11_impl
from blendbench.listening import server, study
from blendbench.listening.answers import Answers
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    run_dir, port, log = json.loads(line)
    if os.fork() == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        answers = Answers(study.read(Path(run_dir)))
        bound = server.bind("127.0.0.1", port)
        print(json.dumps([os.getpid(), bound.getsockname()[1]]), flush=True)
        with suppress(KeyboardInterrupt):
            server.serve(answers, bound)
        os._exit(0)
"""
"""Has imported all and forks into a server a line, so that a server starts in a moment."""


class Forked:
    """A study served by a fork of the zygote; `kill` and `start` may be called again and again."""

    def __init__(self, zygote: subprocess.Popen[str], run_dir: Path) -> None:
        self.run_dir, self.log = run_dir, run_dir.parent / f"{run_dir.name}.log"
        self.tokens = tokens(run_dir)
        self.pid = self.port = 0
        self._zygote = zygote

    def __enter__(self) -> "Forked":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps([str(self.run_dir), self.port, str(self.log)]) + "\n")
        self._zygote.stdin.flush()
        self.pid, self.port = json.loads(self._zygote.stdout.readline())

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            while True:
                os.kill(self.pid, 0)
                time.sleep(0.002)

    def ask(self, listener: int, what: str = "", body: Any = None, **headers: str) -> Reply:
        method = "GET" if body is None else "POST"
        return ask(self.port, method, f"/s/{self.tokens[listener]}/{what}", body, **headers)


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def base(finished, tmp_path_factory) -> Path:
    """A run with a study that nobody has begun. Tests must not change it."""
    return plan(finished, tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def forked(zygote, finished, base, tmp_path_factory) -> Callable[..., Forked]:
    """Plans a study of a copy of the finished run and gives a server for it, which is not started."""
    assert zygote.stdout.readline() == "ready\n"

    def make(*words: str) -> Forked:
        run_dir = tmp_path_factory.mktemp("forked") / "run"
        return Forked(zygote, plan(finished, run_dir, *words) if words else Path(shutil.copytree(base, run_dir)))

    return make


@pytest.fixture(scope="module")
def shared(zygote, finished, tmp_path_factory) -> Iterator[Served]:
    """A study with hostile texts, served by the real command."""
    folder = tmp_path_factory.mktemp("shared")
    scales = {name: dict.fromkeys(("label", "text", "low", "high"), EVIL + name) for name in ("ovl", "per")}
    texts = dict.fromkeys(("title", "consent", "contact", "thanks"), EVIL)
    (folder / "own.yaml").write_text(yaml.safe_dump(texts | {"scales": scales}), encoding="utf-8")
    run_dir = plan(finished, folder / "run", "--study", str(folder / "own.yaml"), f"listeners={MOST}")
    served = Served(run_dir)
    served.start()
    yield served
    assert served.stop(signal.SIGINT) == 0
    assert {file.name for file in (run_dir / "listening").glob("answers*")} == {"answers.sqlite"}


_taken = itertools.count()


@pytest.fixture
def listener(shared) -> SimpleNamespace:
    """Someone whom no other test knows."""
    return someone(shared)


def someone(served: Served) -> SimpleNamespace:
    number = next(_taken)
    assert number < MOST
    at = f"/s/{served.tokens[number]}/"

    def get(what: str = "state", **headers: str) -> Reply:
        return ask(served.port, "GET", at + what, **headers)

    def post(what: str, body: Any, **headers: str) -> Reply:
        return ask(served.port, "POST", at + what, body, **headers)

    return SimpleNamespace(number=number, token=served.tokens[number], at=at, get=get, post=post)


def planned(run_dir: Path) -> study.Study:
    found = study.read(run_dir)
    assert found is not None
    return found


@contextmanager
def database(run_dir: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{run_dir}/listening/answers.sqlite?mode=ro", uri=True)) as connection:
        yield connection


def dump(run_dir: Path) -> list[str]:
    """All that the database holds."""
    with database(run_dir) as connection:
        return list(connection.iterdump())


def stored(run_dir: Path, listener: int) -> dict[str, list[tuple]]:
    """All that the database holds of a listener, but for the hash of their token."""
    with database(run_dir) as connection:
        found = {
            table: connection.execute(f"SELECT * FROM {table} WHERE listener = ?", (listener,)).fetchall()
            for table in ("checks", "ratings", "pages")
        }
        query = "SELECT state, volume_set FROM listeners WHERE number = ?"
        return found | {"listeners": connection.execute(query, (listener,)).fetchall()}


def file_bytes(run_dir: Path) -> bytes:
    """The database's file and its log as they lie on the disk."""
    return b"".join(
        file.read_bytes()
        for file in (run_dir / "listening").glob("answers.sqlite*")
        if not file.name.endswith("-shm")  # an index of the log's pages, of numbers alone
    )


def rate_all(post: Callable[[str, Any], Reply], state: dict[str, Any], value: int = 3, stamp: int = 1) -> None:
    """Rate all clips of the page that a state shows."""
    for clip, scale in itertools.product(state["page"]["clips"], state["scales"]):
        body = {"page": state["page"]["index"], "clip": clip["place"], "scale": scale["name"]}
        assert post("rate", body | {"value": value, "stamp": stamp}).json() == {"saved": True}


def advance(post: Callable[[str, Any], Reply], state: dict[str, Any]) -> dict[str, Any]:
    """Go on by one step, whatever is asked."""
    if state["step"] == "consent":
        reply = post("consent", {"agree": True})
    elif state["step"] == "volume":
        reply = post("volume", {})
    elif state["step"] == "headphones":
        check = state["headphones"]
        reply = post("check", {"attempt": check["attempt"], "trial": check["trial"], "answer": 1})
    else:
        rate_all(post, state)
        reply = post("next", {"page": state["page"]["index"], "seconds": 9.5, "plays": {"first": 1, "A": 2}})
    assert reply.status == 200, reply
    return reply.json()


# Who is given what


def test_every_link_opens_its_own_listeners_answers_alone(shared):
    one, other = someone(shared), someone(shared)
    for who, value in ((one, 2), (other, 5)):
        state = to_pages(shared, who.number)
        rate_all(who.post, state, value)
    for who, value in ((one, 2), (other, 5)):
        ratings = who.get().json()["page"]["ratings"]
        assert ratings == {place: {"ovl": value, "per": value} for place in "ABCD"}
    before = stored(shared.run_dir, other.number)
    one.post("rate", {"page": 0, "clip": "A", "scale": "ovl", "value": 1, "stamp": 9})
    one.post("withdraw", {"confirm": True})
    assert stored(shared.run_dir, other.number) == before


def test_a_listener_has_the_sounds_of_their_own_pages_and_of_what_comes_before_alone(forked):
    made = forked("samples_per_listener=1", "practice=0", "catch_trials=0")
    found = planned(made.run_dir)
    with made:
        for number in range(2):
            own = {clip.name for page in found.pages(number) for clip in page.sample.clips.values()}
            own |= {page.sample.first.name for page in found.pages(number)}
            own |= {found.volume.name, *(clip.name for clip, _ in found.checks)}
            others = {clip.name for clip in found.clips} - own
            assert len(others) >= len(found.arms)
            for name in own:
                reply = made.ask(number, f"clips/{name}.flac")
                assert (reply.status, reply.header("content-type")) == (200, "audio/flac")
                assert reply.body == found.clip_file(name).read_bytes()
            told = {made.ask(number, f"clips/{name}.flac").body for name in [*others, "f" * 32]}
            assert {made.ask(number, f"clips/{name}.flac").status for name in others} == {404}
            assert len(told) == 1  # which does not tell that there is such a sound


TOKENS = [
    "a", "A" * 31, "A" * 32, "A" * 10_000, "%00", "%0d%0aset-cookie:%20a=b", "..", "%2e%2e", "..%2f..", "%2F", "%5c",
    "%ff%fe", "%ED%A0%80", "%F0%9F%8E%B5", "%3Cscript%3E", "'%20OR%201=1%20--", "*", "?", ";", "null", "%25%32%65",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:12])
def test_an_unknown_link_is_one_line_that_repeats_nothing(shared, token):
    for method, what in [("GET", "/"), ("GET", "/state"), ("GET", f"/clips/{'0' * 32}.flac"), ("GET", "")]:
        reply = ask(shared.port, method, f"/s/{token}{what}")
        assert reply.status == 404
        assert reply.body == b"this link is not known; check that it is whole, or ask for another\n"
    for what in POSTS:
        reply = ask(shared.port, "POST", f"/s/{token}/{what}", {})
        assert (reply.status, list(reply.json())) == (404, ["error"])


def test_a_link_with_a_letter_less_or_more_or_another_is_unknown(shared, listener):
    token = listener.token
    changed = token[:-1] + ("B" if token[-1] == "A" else "A")
    for wrong in (token[:-1], token + "A", token + "%00", changed, token.swapcase(), f"%20{token}", f"{token}%2f"):
        assert ask(shared.port, "GET", f"/s/{wrong}/state").status == 404
    assert listener.get().status == 200


@pytest.mark.parametrize(
    "target",
    [b"/s/\xff\xfe/state", b"/s/\xc3\xbc/", b"/s/a\x00b/", b"/s/" + b"A" * 20_000 + b"/", b"/s/%zz/state", b"*"],
)
def test_bytes_that_are_no_address_are_refused_in_a_line(shared, target):
    answer = raw(shared.port, b"GET " + target + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"400", b"404")
    plain(body)


def test_a_link_without_its_last_slash_leads_on_whatever_the_host_is_called(shared, listener):
    for headers in ({}, {"host": "evil.example"}, {"x_forwarded_host": "evil.example"}):
        reply = ask(shared.port, "GET", listener.at.rstrip("/"), **headers)
        assert (reply.status, reply.header("location")) == (307, f"{listener.token}/")  # below any path, by any scheme
    assert ask(shared.port, "GET", "/static/").status == 404


FILES = (
    "answers.sqlite",
    "links.csv",
    "study.json",
    "listen.study.yaml",
    "../config.yaml",
    "../../../../../etc/passwd",
)
CONTENTS = (b"SQLite format", b"listener,link", b'"samples"', b"samples:", b"_target_", b"root:")


def spellings(file: str) -> list[str]:
    """Ways to write the file as seen from the sounds' folder, or from any other."""
    up = f"../{file}"
    ways = [file, up, f"../{up}", f"listening/{file}", f"x/../{file}", f"/{file}", f"//{file}", f"....//{file}"]
    encoded = [way.replace("/", mark) for way in ways for mark in ("/", "%2f", "%5c", "\\", "%252f", "%c0%af")]
    return [way.replace("..", dots) for way in encoded for dots in ("..", "%2E%2e", "%252e%252e")]


@pytest.mark.parametrize("file", FILES)
def test_no_spelling_of_a_path_leaves_the_sounds_and_the_pages_own_files(shared, listener, file):
    absolute = f"{shared.run_dir}/listening/{file}"
    ways = {
        *spellings(file),
        absolute,
        absolute.replace("/", "%2f"),
        f"file:%2f%2f{absolute}",
        f"{file}%00",
        f"{file}%00.flac",
    }
    with closing(http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)) as connection:
        for way in ways:
            paths = [f"/static/{way}", f"{listener.at}{way}", f"/{way}", f"http://127.0.0.1:{shared.port}/{way}"]
            for path in [*paths, f"{listener.at}clips/{way}", f"{listener.at}clips/{way}%00.flac"]:
                connection.request("GET", path)
                reply = connection.getresponse()
                body = reply.read()
                assert reply.status == 404, path
                assert not any(content in body for content in CONTENTS), path


def test_a_sound_that_is_missing_or_a_link_is_told_and_not_followed(forked, tmp_path):
    made = forked()
    found = planned(made.run_dir)
    page = found.pages(0)[0]
    (tmp_path / "secret").write_text("root:x:0:0")
    gone, linked, *_ = (clip.name for clip in page.sample.clips.values())
    found.clip_file(gone).unlink()
    found.clip_file(linked).unlink()
    found.clip_file(linked).symlink_to(tmp_path / "secret")
    found.clip_file("e" * 32).symlink_to(tmp_path / "secret")
    with made:
        for name in (gone, linked, "e" * 32):
            reply = made.ask(0, f"clips/{name}.flac")
            assert reply.status == 404 and b"root" not in reply.body
        assert made.ask(0, f"clips/{page.sample.first.name}.flac").status == 200
    lines = made.log.read_text().splitlines()
    assert [name in line for name, line in zip((gone, linked), lines, strict=True)] == [True, True]
    assert all(line.startswith("blendbench: ") and "put it back from a copy" in line for line in lines)


def test_the_headers_that_protect_are_on_every_answer(shared, listener):
    state, clip = listener.get().json(), planned(shared.run_dir).volume.name
    assert state["step"] == "consent"
    sound = f"{listener.at}clips/{clip}.flac"
    requests: list[tuple[int, str, str, Any, dict[str, str]]] = [
        (200, "GET", "/", None, {}),
        (200, "HEAD", "/", None, {}),
        (200, "GET", listener.at, None, {}),
        (307, "GET", listener.at[:-1], None, {}),
        (200, "GET", f"{listener.at}state", None, {}),
        (200, "GET", "/static/listen.js", None, {}),
        (200, "GET", "/static/listen.css", None, {}),
        (200, "GET", sound, None, {}),
        (200, "HEAD", sound, None, {}),
        (206, "GET", sound, None, {"range": "bytes=0-9"}),
        (206, "GET", sound, None, {"range": "bytes=0-9,20-29"}),
        (416, "GET", sound, None, {"range": "bytes=99999999-"}),
        (400, "GET", sound, None, {"range": "bytes=x"}),
        (404, "GET", "/nothing", None, {}),
        (404, "GET", "/static/nothing.js", None, {}),
        (404, "GET", "/s/nobody/", None, {}),
        (404, "POST", "/s/nobody/rate", {}, {}),
        (405, "POST", "/", {}, {}),
        (405, "GET", f"{listener.at}rate", None, {}),
        (405, "DELETE", f"{listener.at}state", None, {}),
        (405, "OPTIONS", f"{listener.at}rate", None, {"origin": "https://evil.example"}),
        (400, "POST", f"{listener.at}consent", b"no JSON", {}),
        (403, "POST", f"{listener.at}consent", {"agree": True}, {"sec_fetch_site": "cross-site"}),
        (409, "POST", f"{listener.at}volume", {}, {}),
        (413, "POST", f"{listener.at}consent", b" " * 9000, {}),
        (415, "POST", f"{listener.at}consent", b"agree=true", {"content_type": "application/x-www-form-urlencoded"}),
    ]
    for status, method, path, body, headers in requests:
        reply = ask(shared.port, method, path, body, **headers)
        named = [name.lower() for name, _ in reply.headers]
        assert reply.status == status, (method, path, reply)
        assert set(named) >= HEADERS and len(set(named)) == len(named), (path, named)
        assert not {"set-cookie", "server", "x-evil", "access-control-allow-origin", "x-powered-by"} & set(named)
        policy = dict(part.strip().split(" ", 1) for part in reply.header("content-security-policy").split(";"))
        assert policy["default-src"] == "'none'"
        assert {"base-uri", "form-action", "frame-ancestors"} <= {key for key in policy if policy[key] == "'none'"}
        assert not any(word in value for value in policy.values() for word in ("unsafe", "*", "http", "data:", "blob:"))
        assert (reply.header("x-content-type-options"), reply.header("referrer-policy")) == ("nosniff", "no-referrer")
        kept = "private" if path == sound and status < 300 else "no-cache" if "/static/listen" in path else "no-store"
        assert reply.header("cache-control").startswith(kept) or (path, kept) == (listener.at, "no-store")


def in_process(
    app: Any, method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = (), parts: Sequence[bytes] = (),
    ends: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """What an application sends to a request whose body comes in parts and, unless it `ends`, never to its end."""
    sent: list[dict[str, Any]] = []
    coming = list(parts)

    async def receive() -> dict[str, Any]:
        if coming or ends:
            return {
                "type": "http.request",
                "body": coming.pop(0) if coming else b"",
                "more_body": bool(coming) or not ends,
            }
        return await asyncio.Event().wait()  # type: ignore[return-value, func-returns-value]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": list(headers), "scheme": "http", "server": ("127.0.0.1", 1),
             "client": ("127.0.0.1", 2), "root_path": ""}  # fmt: skip
    with suppress(ZeroDivisionError):  # which goes on to the server, whose log has it
        asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    return sent


def test_an_unforeseen_error_tells_nothing_and_has_the_headers(forked, monkeypatch):
    made = forked()
    answers = Answers(planned(made.run_dir))
    monkeypatch.setattr(answers, "progress", lambda listener: 1 // 0)
    start, body = in_process(server.application(answers), "GET", f"/s/{made.tokens[0]}/state")
    assert start["status"] == 500
    assert {name.decode() for name, _ in start["headers"]} >= HEADERS
    assert body["body"] == b"Internal Server Error"
    answers.close()


def test_a_body_that_takes_too_long_is_given_up(forked, monkeypatch):
    made = forked()
    answers = Answers(planned(made.run_dir))
    monkeypatch.setattr(server, "_BODY_S", 0.05)
    headers = [(b"content-type", b"application/json")]
    path = f"/s/{made.tokens[0]}/consent"
    start, body = in_process(server.application(answers), "POST", path, headers, [b'{"agree"', b": true"], ends=False)
    assert start["status"] == 408
    assert {name.decode() for name, _ in start["headers"]} >= HEADERS
    plain(body["body"])
    start, _ = in_process(server.application(answers), "POST", path, headers, [b'{"agree"', b": true}"])
    assert start["status"] == 200
    answers.close()


def test_texts_of_a_study_stay_data(shared, listener):
    state = listener.get()
    assert state.header("content-type") == "application/json"
    found = state.json()
    assert found["title"] == EVIL and found["consent"]["text"] == EVIL.strip() and found["consent"]["contact"] == EVIL
    assert [scale["label"] for scale in found["scales"]] == [EVIL + "ovl", EVIL + "per"]
    page = listener.get("")
    assert page.header("content-type").startswith("text/html")
    for text in (b"alert", b"x-evil", listener.token.encode(), str(shared.run_dir).encode()):
        assert text not in page.body
    assert b"<script>" not in page.body and b"onclick" not in page.body and b"javascript:" not in page.body
    for reply in (state, page):
        assert "x-evil" not in {name.lower() for name, _ in reply.headers}
    assert page.body == ask(shared.port, "GET", someone(shared).at).body  # the same page for everyone


# Bodies


VALID: dict[str, dict[str, Any]] = {
    "consent": {"agree": True},
    "volume": {},
    "check": {"attempt": 0, "trial": 0, "answer": 1},
    "rate": {"page": 0, "clip": "A", "scale": "ovl", "value": 3, "stamp": 5},
    "next": {"page": 0, "seconds": 3.5, "plays": {"A": 1}},
    "withdraw": {"confirm": True},
}
WRONG = [
    None,
    True,
    "1",
    1.0,
    -1,
    10**20,
    [],
    {},
    [1],
    {"a": 1},
    "\ud800",
    "A\r\nx-evil: 1",
    float("nan"),
    float("inf"),
]


@pytest.mark.parametrize(("what", "key"), [(what, key) for what, body in VALID.items() for key in body])
def test_every_key_of_every_answer_is_checked(shared, what, key):
    who = someone(shared)
    if what in ("rate", "next"):
        to_pages(shared, who.number)
    before = stored(shared.run_dir, who.number)
    wrong = [value for value in WRONG if (key, value) not in (("seconds", 1.0), ("agree", True), ("confirm", True))]
    if key == "plays":
        wrong = [one for one in wrong if one != {}] + [
            {place: value} for place in ("A", "first") for value in WRONG if value != 1
        ]
        wrong += [{"\ud800": "x"}, {"noise ": 1}, {"AA": 1}, {"": 1}, {"A": 1, "<b>": 1}]
    for value in wrong:
        for body in (VALID[what] | {key: value}, json.dumps(VALID[what] | {key: value}, ensure_ascii=True).encode()):
            reply = who.post(what, body)
            assert reply.status in (400, 409), (value, reply)
            assert list(reply.json()) == ["error"] and "evil" not in reply.json()["error"]
    lacking = {name: value for name, value in VALID[what].items() if name != key}
    assert who.post(what, lacking).status == 400
    assert stored(shared.run_dir, who.number) == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"agree", b"[]", b"null", b"1", b'"text"', b"[" * 8000, b'{"agree":' * 900, b'{"agree": true} x',
        b'{"agree": NaN}', b'{"agree": Infinity}', b'{"agree": ' + b"1" * 5000 + b"}", b"\xff\xfe", b'{"agree": "\xff"',
        b'{"agree": true, "agree": false}', b"\x00", b'{"\\ud800": 1}',
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(shared, listener, body):
    assert listener.post("consent", body).status == 400
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]


@pytest.fixture(scope="module")
def fuzzed(shared) -> SimpleNamespace:
    who = someone(shared)
    to_pages(shared, who.number)
    return who


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.integers(), st.floats(), st.text(max_size=4))
NAMES = [
    "agree",
    "attempt",
    "trial",
    "answer",
    "page",
    "clip",
    "scale",
    "value",
    "stamp",
    "seconds",
    "plays",
    "confirm",
]
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner))


@pytest.mark.soak
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(what=st.sampled_from(POSTS[:-1]), extra=st.dictionaries(st.sampled_from(NAMES), JSON), valid=st.booleans())
def test_no_body_breaks_the_server_or_gets_nonsense_kept(shared, fuzzed, what, extra, valid):
    body = (VALID[what] if valid else {}) | extra
    reply = fuzzed.post(what, body)
    assert reply.status in ((413,) if len(json.dumps(body)) > 8192 else (200, 400, 409)), reply
    rows = stored(shared.run_dir, fuzzed.number)
    assert {row[3] for row in rows["ratings"]} <= {"ovl", "per"}
    assert all(1 <= row[4] <= 5 and 0 <= row[6] <= 2**53 for row in rows["ratings"])
    assert {type(value) for row in rows["pages"] for value in row} <= {int, float, str}


def test_a_body_of_eight_kilobytes_is_the_most(shared, listener):
    text = b'{"agree": true}'
    assert listener.post("consent", text + b" " * (8193 - len(text))).status == 413
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]
    head = f"POST {listener.at}consent HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n".encode()
    for length in (b"content-length: 999999999999\r\n\r\n" + b" " * 9000, chunked([b" " * 4096] * 3)):
        assert raw(shared.port, head + length).split()[1] == b"413"
    for length in (b"content-length: -1\r\n\r\n", b"content-length: 5\r\ncontent-length: 6\r\n\r\n      "):
        assert raw(shared.port, head + length).split()[1] == b"400"
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]
    assert raw(shared.port, head + chunked([text[:5], text[5:]])).split()[1] == b"200"
    other = someone(shared)
    assert other.post("consent", text + b" " * (8192 - len(text))).status == 200


def chunked(parts: Sequence[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
def test_answers_are_json_alone_so_that_no_form_of_another_site_sends_one(shared, listener, kind):
    assert listener.post("consent", {"agree": True}, content_type=kind).status == 415
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]
    assert listener.post("consent", {"agree": True}, content_type="Application/JSON; charset=utf-8").status == 200


def test_answers_from_another_site_are_refused(shared, listener):
    assert listener.post("consent", {"agree": True}, sec_fetch_site="cross-site").status == 403
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]
    assert listener.post("consent", {"agree": True}, sec_fetch_site="same-origin").status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "GET", "HEAD", "FOO"])
def test_answers_come_by_post_alone(shared, listener, method):
    for what in POSTS:
        assert ask(shared.port, method, listener.at + what).status == 405
    if method not in ("GET", "HEAD"):
        for path in ("/", listener.at, f"{listener.at}state", "/static/listen.js"):
            assert ask(shared.port, method, path).status == 405
    assert stored(shared.run_dir, listener.number)["listeners"] == [("invited", 0)]


# What is kept of whom


def test_neither_addresses_nor_browsers_nor_links_are_kept(shared, listener, capfd):
    marks = {"user_agent": "Browser-7f3a", "x_forwarded_for": "203.0.113.77", "forwarded": "for=198.51.100.17",
             "referer": "https://where.example/from", "cookie": "id=c00k1e", "accept_language": "xx-Some"}  # fmt: skip
    listener.get("", **marks)
    listener.post("consent", {"agree": True}, **marks)
    listener.post("volume", {}, **marks)
    assert listener.post("withdraw", {"confirm": "no"}, **marks).status == 400
    data = file_bytes(shared.run_dir)
    for text in [*marks.values(), "127.0.0.1", *shared.tokens]:
        assert text.encode() not in data
    assert hashlib.sha256(listener.token.encode()).digest() in data
    with database(shared.run_dir) as connection:
        columns = {
            (table, row[1])
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for row in connection.execute(f"PRAGMA table_info({table})")
        }
    assert {column for table, column in columns if table == "listeners"} == {
        "number", "token_hash", "state", "volume_set"
    }  # fmt: skip
    assert {table for table, _ in columns} == {"listeners", "checks", "ratings", "pages"}
    printed = capfd.readouterr()
    assert not any(text in printed.out + printed.err for text in [*marks.values(), listener.token])


def test_the_files_with_links_and_answers_are_their_owners_alone(shared):
    folder = shared.run_dir / "listening"
    files = [folder / "links.csv", *folder.glob("answers.sqlite*")]
    assert {file.name for file in files} >= {"links.csv", "answers.sqlite", "answers.sqlite-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# The order of a study


def test_the_whole_way(shared, listener):
    found = planned(shared.run_dir)
    pages = found.pages(listener.number)
    state = listener.get().json()
    assert state["step"] == "consent" and state["pages"] == {"done": 0, "of": len(pages)}
    state = listener.post("consent", {"agree": True}).json()
    assert state["step"] == "volume" and state["volume"] == {"clip": found.volume.name}
    state = listener.post("volume", {}).json()
    for attempt, answers in enumerate(([1, 1, 1], [answer for _, answer in found.checks])):
        for trial, answer in enumerate(answers):
            told = {"attempt": attempt, "attempts": 2, "trial": trial, "of": 3, "clip": found.checks[trial][0].name}
            assert (state["step"], state["headphones"]) == ("headphones", told)
            state = listener.post("check", {"attempt": attempt, "trial": trial, "answer": answer}).json()
    for page in pages:
        assert state == listener.get().json()
        assert state["step"] == "page" and state["pages"]["done"] == page.index
        shown = state["page"]
        assert shown["index"] == page.index and shown["practice"] == (page.sample.kind == "practice")
        assert shown["first"] == {"clip": page.sample.first.name, "label": "Noise"} and shown["ratings"] == {}
        assert [clip["place"] for clip in shown["clips"]] == list("ABCD")
        assert [clip["clip"] for clip in shown["clips"]] == [page.sample.clips[one].name for one in page.order]
        rate_all(listener.post, state, 1 + page.index % 5)
        assert set(listener.get().json()["page"]["ratings"]) == set("ABCD")
        state = listener.post("next", {"page": page.index, "seconds": 7.25, "plays": {"first": 2, "B": 3}}).json()
    assert state == listener.get().json()
    assert state["step"] == "finished" and state["pages"] == {"done": len(pages), "of": len(pages)}
    assert state["thanks"] == EVIL
    kept = stored(shared.run_dir, listener.number)
    assert len(kept["checks"]) == 6 and kept["listeners"] == [("finished", 1)]
    assert len(kept["ratings"]) == len(pages) * 4 * 2 and len(kept["pages"]) == len(pages)
    for page in pages:
        rows = {(row[2], row[3]): row[4:6] for row in kept["ratings"] if row[1] == page.index}
        assert rows == {(one, scale): (1 + page.index % 5, 0) for one in page.order for scale in ("ovl", "per")}
        (row,) = [row for row in kept["pages"] if row[1] == page.index]
        assert (row[2], json.loads(row[3])) == (7.25, {"first": 2, "A": 0, "B": 3, "C": 0, "D": 0})


def unasked(state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Answers that would all be right elsewhere, but not where a listener is; nothing on their page is rated yet."""
    step = state["step"]
    asked = {"consent": "consent", "volume": "volume", "headphones": "check", "page": "rate"}.get(step)
    index = state["page"]["index"] if step == "page" else 0
    out = [(what, VALID[what] | ({"page": index} if what == "next" else {})) for what in POSTS[:-1] if what != asked]
    out += [("next", VALID["next"] | {"page": page}) for page in (index + 1, 99)]
    if step == "headphones":
        at = state["headphones"]
        wrong = [(0, 99), (1, 99), (at["attempt"], at["trial"] + 1), (1, at["trial"] + 1)]
        out += [("check", {"attempt": attempt, "trial": trial, "answer": 1}) for attempt, trial in wrong]
    if step == "page":
        rating = VALID["rate"] | {"page": index}
        wrong_ones = [{"page": index + 1}, {"page": index - 1 if index else 99}]
        wrong_ones += [{"clip": name} for name in ("E", "a", "noise", "AB", "")] + [{"scale": "mos"}, {"scale": ""}]
        out += [("rate", rating | one) for one in wrong_ones]
    return [one for one in out if (one[0], step) != ("next", "finished")] + [("next", VALID["next"] | {"page": 99})]


def test_what_is_not_asked_is_refused_at_every_step_and_changes_nothing(shared, listener):
    state, seen = listener.get().json(), []
    while True:
        seen.append(state["step"])
        before = dump(shared.run_dir)
        for what, body in unasked(state):
            assert listener.post(what, body).status == 409, (state["step"], what, body)
        assert dump(shared.run_dir) == before and listener.get().json() == state
        if state["step"] == "finished":
            break
        if state["step"] == "page":  # but for one rating
            index = state["page"]["index"]
            rate_all(listener.post, state | {"page": state["page"] | {"clips": state["page"]["clips"][:3]}})
            most = stored(shared.run_dir, listener.number)
            assert listener.post("next", {"page": index, "seconds": 1, "plays": {}}).status == 409
            assert stored(shared.run_dir, listener.number) == most
        state = advance(listener.post, state)
    assert seen == ["consent", "volume", *["headphones"] * 6, *["page"] * 4, "finished"]


def test_a_finished_study_takes_no_answer_and_the_last_next_may_come_twice(shared, listener):
    state = to_pages(shared, listener.number)
    while state["step"] != "finished":
        index = state["page"]["index"]
        rate_all(listener.post, state)
        before = state
        state = listener.post("next", {"page": index, "seconds": 4, "plays": {}}).json()
        assert listener.post("next", {"page": index, "seconds": 5, "plays": {"A": 9}}).json() == state != before
    kept = stored(shared.run_dir, listener.number)
    assert {row[2] for row in kept["pages"]} == {4.0}
    for what in ("consent", "volume", "check", "rate"):
        assert listener.post(what, VALID[what]).status == 409
    assert listener.post("next", {"page": 99, "seconds": 5, "plays": {}}).status == 409
    assert stored(shared.run_dir, listener.number) == kept


def test_an_answer_sent_twice_counts_once_and_an_older_one_not_at_all(shared, listener):
    to_pages(shared, listener.number)

    def rate(value: int, stamp: int) -> tuple:
        body = {"page": 0, "clip": "B", "scale": "per", "value": value, "stamp": stamp}
        assert listener.post("rate", body).json() == {"saved": True}
        (row,) = stored(shared.run_dir, listener.number)["ratings"]
        return row[4:]  # value, changes, stamp

    assert rate(2, 100) == rate(2, 100) == (2, 0, 100)
    assert rate(4, 200) == rate(4, 200) == rate(5, 150) == rate(1, 200) == (4, 1, 200)
    assert rate(4, 300) == (4, 1, 300)
    assert rate(1, 301) == (1, 2, 301)


def test_two_windows_of_a_listener(shared, listener):
    shown = to_pages(shared, listener.number)  # in both
    rate_all(listener.post, shown, 2, stamp=10)
    assert listener.get().json()["page"]["ratings"]["A"] == {"ovl": 2, "per": 2}
    there = listener.post("next", {"page": 0, "seconds": 3, "plays": {}}).json()
    late = {"page": 0, "clip": "A", "scale": "ovl", "value": 5, "stamp": 99}
    assert listener.post("rate", late).status == 409
    assert listener.post("next", {"page": 0, "seconds": 8, "plays": {}}).json() == there
    replies: list[Reply] = []
    state = there
    rate_all(listener.post, state)
    both = [
        threading.Thread(target=lambda: replies.append(listener.post("next", {"page": 1, "seconds": 3, "plays": {}})))
        for _ in range(8)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 8
    assert len({reply.body for reply in replies}) == 1
    assert len(stored(shared.run_dir, listener.number)["pages"]) == 2


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 6, 8, 9, 99])
def test_who_withdraws_leaves_nothing_wherever_they_are(shared, listener, steps):
    state = listener.get().json()
    sure = {"seconds": 4242.125, "plays": {"A": 987_654}}
    marks = [
        b"987654",
        bytes.fromhex("40b0922000000000"),
        *(stamp.to_bytes(6, "big") for stamp in (2**44 + listener.number,)),
    ]
    for _ in range(steps):
        if state["step"] == "finished":
            break
        if state["step"] == "page":
            rate_all(listener.post, state, stamp=2**44 + listener.number)
            state = listener.post("next", {"page": state["page"]["index"], **sure}).json()
        else:
            state = advance(listener.post, state)
    others = [
        line for line in dump(shared.run_dir) if "listeners" not in line and f"VALUES({listener.number}," not in line
    ]
    assert any(mark in file_bytes(shared.run_dir) for mark in marks) == (steps > 8)
    reply = listener.post("withdraw", {"confirm": True})
    assert (reply.status, reply.json()["step"]) == (200, "withdrawn")
    assert stored(shared.run_dir, listener.number) == {
        "checks": [], "ratings": [], "pages": [], "listeners": [("withdrawn", 0)]
    }  # fmt: skip
    assert not any(mark in file_bytes(shared.run_dir) for mark in marks)
    assert (shared.run_dir / "listening" / "answers.sqlite-wal").stat().st_size == 0
    for what in POSTS[:-1]:
        assert listener.post(what, VALID[what]).status == 409
    assert listener.post("withdraw", {"confirm": True}).json() == reply.json()
    kept = [
        line for line in dump(shared.run_dir) if "listeners" not in line and f"VALUES({listener.number}," not in line
    ]
    assert kept == others


@pytest.fixture(scope="module")
def strict(forked) -> Iterator[Forked]:
    """A study in which the headphone check has to be passed."""
    with forked("headphone_check.required=true", "headphone_check.needed=3") as made:
        yield made


def to_headphones(made: Forked, number: int, *attempts: Sequence[int]) -> Any:
    """Bring a listener to the headphone check and give answers; returns the state then."""
    made.ask(number, "consent", {"agree": True})
    state = made.ask(number, "volume", {}).json()
    for attempt, answers in enumerate(attempts):
        for trial, answer in enumerate(answers):
            state = made.ask(number, "check", {"attempt": attempt, "trial": trial, "answer": answer}).json()
    return state


def test_who_fails_a_required_headphone_check_twice_cannot_take_part(strict):
    right = [answer for _, answer in planned(strict.run_dir).checks]
    wrong = [*right[:2], right[2] % 3 + 1]
    state = to_headphones(strict, 0, wrong, wrong)
    assert state["step"] == "refused" and "page" not in state
    for what in POSTS[:-1]:
        assert strict.ask(0, what, VALID[what]).status == 409
    assert strict.ask(0, "state").json() == state
    assert strict.ask(0, "withdraw", {"confirm": True}).json()["step"] == "withdrawn"
    assert stored(strict.run_dir, 0)["checks"] == []
    assert to_headphones(strict, 1, wrong)["headphones"]["attempt"] == 1
    assert to_headphones(strict, 2, wrong, right)["step"] == "page"


def test_an_answer_of_the_headphone_check_cannot_be_taken_back(strict):
    made_wrong = [answer % 3 + 1 for _, answer in planned(strict.run_dir).checks]
    state = strict.ask(1, "state").json()  # at the second attempt, from the test before, or at the first
    if state["step"] != "headphones":
        state = to_headphones(strict, 1, made_wrong)
    attempt = state["headphones"]["attempt"]
    body = {"attempt": attempt, "trial": 0, "answer": made_wrong[0]}
    after = strict.ask(1, "check", body).json()
    assert strict.ask(1, "check", body | {"answer": made_wrong[0] % 3 + 1}).json() == after
    (row,) = [row for row in stored(strict.run_dir, 1)["checks"] if row[1:3] == (attempt, 0)]
    assert row[3] == made_wrong[0]


# Blindness


def test_nothing_that_a_listener_is_sent_tells_a_method_from_another(forked):
    made = forked("listeners=4", "catch_trials=2")
    found = planned(made.run_dir)
    with made:
        for number in range(4):
            replies = [made.ask(number, what) for what in ("", "state")]
            state, shapes = replies[1].json(), set()
            sounds: dict[str, Reply] = {}
            coming: list[str] = []

            def post(what: str, body: Any, number: int = number, replies: list[Reply] = replies) -> Reply:
                replies.append(made.ask(number, what, body))
                return replies[-1]

            while state["step"] != "finished":
                if state["step"] == "page":
                    page = found.pages(number)[state["page"]["index"]]
                    shown = [state["page"]["first"]["clip"], *(clip["clip"] for clip in state["page"]["clips"])]
                    # What is loaded ahead comes in the order that its page will show; the plan's would tell the arms.
                    assert coming in ([], shown)
                    coming = state["page"]["next"]
                    for name in shown:
                        sounds[name] = made.ask(number, f"clips/{name}.flac")
                    if page.sample.kind != "practice":
                        counted = state["page"] | {"index": 0}
                        shapes.add(json.dumps(shape(counted if coming else counted | {"next": shown})))
                state = advance(post, state)
            assert len(shapes) == 1  # catch trials look like all others
            heads = {tuple(key for key, _ in reply.headers) for reply in sounds.values()}
            told = {
                tuple((key, value) for key, value in reply.headers if key not in ("content-length", "etag", "date"))
                for reply in sounds.values()
            }
            assert len(heads) == len(told) == 1  # no date of a file, which would tell the order of the plan
            assert {reply.header("etag") for reply in sounds.values()} == {f'"{name}"' for name in sounds}
            secret = {*found.arms, *found.arms.values(), found.presentation, made.run_dir.name + "/", "catch"}
            secret |= {
                text for one in found.samples for text in (one.name, one.pair_id, one.dataset, *one.facts.values())
            }
            texts = [reply.body.decode() + repr(reply.headers) for reply in replies if b"fLaC" not in reply.body[:4]]
            for word in secret - {""}:
                assert not [text for text in texts if word.lower() in text.lower()], word
            for reply in sounds.values():
                assert metadata(reply.body) == ["STREAMINFO", "VORBIS_COMMENT"]
                assert not any(word.encode() in reply.body for word in secret if len(word) > 5)


def shape(value: Any) -> Any:
    """A JSON value without what it says: keys, types and counts."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in sorted(value.items())}
    return [shape(one) for one in value] if isinstance(value, list) else type(value).__name__


def metadata(flac: bytes) -> list[str]:
    """Names of a FLAC file's metadata blocks, of which a comment may name its encoder alone."""
    names = ["STREAMINFO", "PADDING", "APPLICATION", "SEEKTABLE", "VORBIS_COMMENT", "CUESHEET", "PICTURE"]
    assert flac[:4] == b"fLaC"
    at, found, last = 4, [], False
    while not last:
        last, kind, size = flac[at] >= 128, flac[at] % 128, int.from_bytes(flac[at + 1 : at + 4], "big")
        found.append(names[kind])
        if found[-1] == "VORBIS_COMMENT":
            vendor = int.from_bytes(flac[at + 4 : at + 8], "little")
            assert flac[at + 8 : at + 8 + vendor].startswith(b"reference libFLAC")
            assert flac[at + 8 + vendor : at + 12 + vendor] == bytes(4)  # no comments
        at += 4 + size
    return found


# Durability


@pytest.mark.parametrize(("kills", "workers"), [(5, 2), pytest.param(15, 6, marks=pytest.mark.soak)])
def test_no_answer_that_was_acknowledged_is_lost_however_often_the_server_is_killed(forked, kills, workers):
    draw = random.Random(0)
    made = forked(f"listeners={workers * 12}")
    found = planned(made.run_dir)
    sent: dict[tuple[int, int, str, str], list[int]] = {}
    ended: dict[tuple[int, int], float] = {}
    acknowledged: list[int] = []
    done = threading.Event()
    errors: list[BaseException] = []

    def insist(number: int, what: str, body: dict[str, Any]) -> Any:
        """Send an answer again until the server says that it has it, as the page does."""
        while True:
            try:
                reply = made.ask(number, what, body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
                continue
            assert reply.status in (200, 409), reply
            acknowledged.append(number)
            return reply.json() if reply.status == 200 else made_state(number)

    def made_state(number: int) -> Any:
        """After a 409: an answer whose acknowledgement was lost has led on."""
        while True:
            with suppress(OSError, http.client.HTTPException):
                return made.ask(number, "state").json()

    def take_part(number: int, own: random.Random) -> None:
        state = made_state(number)
        while state["step"] != "finished":
            if state["step"] != "page":
                check = state.get("headphones", {})
                what = {"headphones": "check"}.get(state["step"], state["step"])
                trial = {"attempt": check.get("attempt"), "trial": check.get("trial"), "answer": 1}
                state = insist(number, what, {"check": trial}.get(what, {"agree": True}))
                continue
            index = state["page"]["index"]
            order = found.pages(number)[index].order
            for place, scale in itertools.product(range(len(order)), found.scales):
                values = sent.setdefault((number, index, order[place], scale), [])
                for stamp in range(own.choice((1, 1, 2, 3))):
                    values.append(own.randint(1, 5))
                    body = {"page": index, "clip": "ABCD"[place], "scale": scale, "value": values[-1], "stamp": stamp}
                    assert insist(number, "rate", body) == {"saved": True}
            ended[number, index] = round(own.uniform(1, 99), 3)
            state = insist(number, "next", {"page": index, "seconds": ended[number, index], "plays": {"A": 1}})

    def work(worker: int) -> None:
        try:
            for turn in range(12):
                if not done.is_set() or turn == 0:
                    take_part(worker * 12 + turn, random.Random(worker * 100 + turn))
        except BaseException as error:
            errors.append(error)

    with made:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for kill in range(kills):
            before = len(acknowledged)
            while kill % 2 == 0 and len(acknowledged) == before and not errors:
                time.sleep(0.002)  # every other time it is killed at work, however busy the machine is
            time.sleep(draw.uniform(0.02, 0.25))
            made.kill()
            made.start()
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    with database(made.run_dir) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ratings = connection.execute("SELECT listener, page, condition, scale, value, changes FROM ratings").fetchall()
        pages = connection.execute("SELECT listener, page, seconds FROM pages").fetchall()
        states = dict(connection.execute("SELECT number, state FROM listeners").fetchall())
    taken_part = {number for number, *_ in sent}
    assert len(taken_part) >= workers and {states[number] for number in taken_part} == {"finished"}
    assert {state for number, state in states.items() if number not in taken_part} <= {"invited"}
    assert len(ratings) == len(sent)
    for *key, value, changes in ratings:
        values = sent[tuple(key)]  # type: ignore[index]
        assert value == values[-1]
        assert changes == sum(one != other for one, other in itertools.pairwise(values))
    assert {(listener, page): seconds for listener, page, seconds in pages} == ended
    assert made.log.read_text() == ""


def test_a_full_disk_is_a_line_and_all_goes_on_once_there_is_space(disk, finished, forked, zygote, tmp_path):
    folder = disk("size=40m")
    made = Forked(zygote, plan(finished, folder / "run", "listeners=3"))
    made.log = tmp_path / "log"
    with made:
        for number in range(3):
            to_headphones(made, number, [1, 1, 1], [1, 1, 1])
        with (folder / "rest").open("wb", buffering=0) as rest, suppress(OSError):
            while rest.write(bytes(65536)):
                pass
        with (folder / "rest").open("ab", buffering=0) as rest, suppress(OSError):
            while rest.write(b"\0"):
                pass
        kept: dict[tuple[str, str], tuple[int, int]] = {}
        stamp, refused = 0, 0
        while refused < 20 and stamp < 3000:
            stamp += 1
            place, scale = "ABCD"[stamp % 4], ("ovl", "per")[stamp // 4 % 2]
            body = {"page": 0, "clip": place, "scale": scale, "value": 1 + stamp % 5, "stamp": stamp}
            reply = made.ask(0, "rate", body)
            if reply.status == 200:
                kept[place, scale] = (1 + stamp % 5, stamp)
            else:
                assert reply.status == 503
                assert reply.json() == {"error": "answers cannot be kept at the moment; this page tries again"}
                assert {name.lower() for name, _ in reply.headers} >= HEADERS
                refused += 1
        assert refused == 20
        assert made.ask(0, "withdraw", {"confirm": True}).status == 503
        state = made.ask(0, "state").json()  # reading goes on
        assert state["step"] == "page"
        shown = {
            (place, scale): value for place, own in state["page"]["ratings"].items() for scale, value in own.items()
        }
        assert shown == {key: value for key, (value, _) in kept.items()}
        lines = made.log.read_text().splitlines()
        assert len(lines) == 21
        assert all(
            line.startswith("blendbench: ") and "disk is full" in line and "free space" in line for line in lines
        )
        (folder / "rest").unlink()
        order = planned(made.run_dir).pages(0)[0].order
        rows = {("ABCD"[order.index(row[2])], row[3]): (row[4], row[6]) for row in stored(made.run_dir, 0)["ratings"]}
        assert rows == kept
        rate_all(lambda what, body: made.ask(1, what, body), made.ask(1, "state").json())
        assert len(stored(made.run_dir, 1)["ratings"]) == 8
        assert made.ask(0, "withdraw", {"confirm": True}).json()["step"] == "withdrawn"
        with database(made.run_dir) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_listeners_at_once_lose_and_double_nothing(forked, count):
    file = REPOSITORY / "benchmarks" / "listeners.py"
    spec = importlib.util.spec_from_file_location("listeners_benchmark", file)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    made, kept = forked(f"listeners={count}", "headphone_check.trials=0"), benchmark.Kept()
    with made:
        links = dict(enumerate(made.tokens))
        times = asyncio.run(benchmark.round_of(links, made.port, kept, think=0, seconds=280, pages=2))
    assert len(kept.ratings) == count * 2 * 4 * 2 and len(kept.pages) == count * 2
    assert {kind: len(times[kind]) for kind in ("page", "consent", "rate", "next")} == {
        "page": count, "consent": count, "rate": count * 2 * (4 * 2 + 2), "next": count * 2
    }  # fmt: skip
    assert benchmark.faults(made.run_dir, kept) == []
    lost = next(iter(kept.ratings))
    kept.ratings[lost] = benchmark.Rated(6, 0)
    assert len(benchmark.faults(made.run_dir, kept)) == 1  # it would be told


# The command


@pytest.fixture
def ready(base, tmp_path, monkeypatch) -> Path:
    """A planned study; the command serves nothing here."""
    monkeypatch.setattr(server, "serve", lambda answers, bound: bound.close())
    return Path(shutil.copytree(base, tmp_path / "run"))


def failure(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    """The one line that a command prints when it fails."""
    capsys.readouterr()
    assert call("listen", *words) == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("blendbench: ") and "unexpected" not in line
    return line


def test_help_comes_at_once(tmp_path):
    program, times = [sys.executable, "-c", "from blendbench.cli import main; main()", "listen", "--help"], []
    for _ in range(3):  # since other work may hold the processor
        began = time.perf_counter()
        done = subprocess.run(program, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 2
    assert "blendbench listen RUN_DIR" in done.stdout and "study.yaml" in done.stdout


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (2, [], "the following arguments are required: RUN_DIR"),
        (2, ["{run}", "--port", "many"], "invalid int value: 'many'"),
        (2, ["{run}", "--colour"], "unrecognized arguments: --colour"),
        (2, ["status"], "the following arguments are required: RUN_DIR"),
        (2, ["export", "{run}"], "the following arguments are required: FILE"),
        (2, ["export", "{run}", "ratings.xlsx"], "unknown ending; use .csv or .json"),
        (1, ["nowhere"], "no config.yaml here; give the folder that `blendbench run` printed"),
        (1, ["status", "{run}"], "no study here; plan one with `blendbench listen"),
        (1, ["export", "{run}", "ratings.csv"], "no study here"),
        (1, ["analyse", "{run}"], "no study here"),
        (1, ["webmushra", "{run}", "web"], "no study here"),
        (2, ["{run}", "--plan", "colour=blue"], "colour"),
        (2, ["{run}", "--plan", "samples=0"], "samples: 0 is out of range; use a whole number from 1"),
        (1, ["{run}", "--plan", "arms=[nobody]"], "arms: the run has no 'nobody'; it has"),
        (2, ["{run}", "--plan", "--study", "missing.yaml"], "missing.yaml: cannot be read"),
        (2, ["{run}", "--plan", "--study", "{run}/pairs.jsonl"], "pairs.jsonl: "),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_houses_status(finished, tmp_path, capsys, status, words, expected):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.yaml", "pairs.jsonl"):
        (run_dir / name).write_bytes((finished / name).read_bytes())
    assert expected in failure(capsys, status, *(word.format(run=run_dir) for word in words))
    assert not (run_dir / "listening" / "study.json").exists()


def test_a_run_without_mixes_is_one_line(finished, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    assert "no pairs.jsonl here" in failure(capsys, 1, str(run_dir), "--plan")
    rows = [json.loads(line) for line in (finished / "pairs.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"status": "failed"}) + "\n" for row in rows]
    (run_dir / "pairs.jsonl").write_text("".join(lines))
    assert "no item has mixes of" in failure(capsys, 1, str(run_dir), "--plan")
    (run_dir / "pairs.jsonl").write_bytes((finished / "pairs.jsonl").read_bytes())
    line = failure(capsys, 1, str(run_dir), "--plan")  # the rows, but not their files
    assert "cannot be read again" in line and str(run_dir / "mixes") in line
    assert not (run_dir / "listening" / "study.json").exists()


def test_a_port_that_is_taken_and_an_address_that_is_not_ours_are_one_line(ready, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = failure(capsys, 1, str(ready), "--port", port)
        assert f"--port {port}: " in line and "choose another port" in line
    for host, port in (
        ("203.0.113.1", "0"),
        ("no.such.host.invalid", "0"),
        ("127.0.0.1", "99999"),
        ("a" * 70 + ".b", "0"),
    ):
        assert f"--host {host} --port {port}: " in failure(capsys, 1, str(ready), "--host", host, "--port", port)


def test_other_settings_for_a_study_that_is_there_are_refused(ready, tmp_path, capsys):
    before = (ready / "listening" / "study.json").read_bytes()
    (tmp_path / "own.yaml").write_text("samples: 1\n")
    for words in (["samples=1"], ["--study", str(tmp_path / "own.yaml")]):
        assert "a study is there, and does not change" in failure(capsys, 1, str(ready), "--plan", *words)
    assert call("listen", str(ready), "--plan") == 0
    assert (ready / "listening" / "study.json").read_bytes() == before


def test_links_stay_and_further_ones_come_by_invite(ready, capsys):
    old = tokens(ready)
    assert len(set(old)) == 3 and min(len(token) for token in old) >= 32
    assert call("listen", str(ready), "--plan", "--invite", "2", "--url", "https://lab.example.org/study/") == 0
    printed = capsys.readouterr().out
    new = tokens(ready)
    assert new[:3] == old and len(set(new)) == 5
    with (ready / "listening" / "links.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["link"] for row in rows] == [f"https://lab.example.org/study/s/{token}/" for token in new]
    assert [int(row["listener"]) for row in rows] == list(range(5))
    assert all(row["link"] in printed for row in rows)
    assert call("listen", str(ready), "--plan") == 0
    assert tokens(ready) == new
    assert stat.S_IMODE((ready / "listening" / "links.csv").stat().st_mode) == 0o600
    answers = Answers(planned(ready))
    assert [answers.listener(token).number for token in new] == list(range(5))  # type: ignore[union-attr]
    answers.close()


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("study.json", lambda data: data[:100], "study.json: damaged"),
        ("study.json", lambda data: data.replace(b'"version": 2', b'"version": 9'), "version 9 of another blendbench"),
        ("listen.study.yaml", lambda data: b"samples: [", "listen.study.yaml: "),
        ("listen.study.yaml", None, "listen.study.yaml: cannot be read"),
        ("links.csv", lambda data: data[:-5], "links.csv: damaged"),
        ("links.csv", lambda data: b"\x00\xff" + data, "links.csv: damaged"),
        ("links.csv", lambda data: data.replace(b"\n0,", b"\nzero,"), "links.csv: damaged"),
        ("links.csv", lambda data: b"listener\n0\n", "links.csv: damaged"),
        ("links.csv", lambda data: data.replace(b"\n0,", b"\n1,", 1), "links.csv: damaged"),
        ("answers.sqlite", lambda data: data[: len(data) // 2], "answers.sqlite: cannot be used"),
        ("answers.sqlite", lambda data: b"nothing of the kind" * 500, "answers.sqlite: cannot be used"),
        ("answers.sqlite", None, "answers.sqlite: missing, though links.csv is there"),
        ("clips", None, ".flac: missing; put it back from a copy"),
    ],
)
def test_damaged_files_are_one_line_with_a_remedy(ready, capsys, name, damage, expected):
    file = ready / "listening" / name
    if damage is not None:
        file.write_bytes(damage(file.read_bytes()))
    elif file.is_dir():
        sound = planned(ready).clip_file(planned(ready).samples[-1].first.name)
        sound.unlink()
    else:
        file.unlink()
    line = failure(capsys, 1, str(ready), "--port", "0")
    assert expected in line
    assert any(remedy in line for remedy in ("put it back", "plan a new study", "name a study's YAML file", "--help"))


def test_who_serves_to_other_machines_is_warned(ready, capsys):
    for host, url, warned in (
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "http://lab.example.org", True),
        ("0.0.0.0", "https://lab.example.org", False),
    ):
        assert call("listen", str(ready), "--host", host, "--port", "0", *(["--url", url] if url else [])) == 0
        printed = capsys.readouterr()
        assert ("links travel unencrypted" in printed.err) == warned
        assert printed.out.splitlines()[-1] == "3 listeners: 3 not begun"


@pytest.mark.soak
def test_status_and_export_tell_the_truth(strict, tmp_path, capsys):
    right = [answer for _, answer in planned(strict.run_dir).checks]
    # Beside what the tests before have left: number 2 is or comes to its second page.
    state = strict.ask(2, "state").json()
    if state["step"] != "page":
        state = to_headphones(strict, 2, right)
    rate_all(lambda what, body: strict.ask(2, what, body), state, 4)
    strict.ask(2, "next", {"page": 0, "seconds": 12.5, "plays": {"first": 1, "A": 6, "C": 2}})
    body = {"page": 1, "clip": "D", "scale": "per", "value": 1, "stamp": 5}
    for value in (1, 2):
        assert strict.ask(2, "rate", body | {"value": value, "stamp": value}).status == 200
    capsys.readouterr()
    assert call("listen", "status", str(strict.run_dir)) == 0  # while it is served
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 listeners: ") and f"{2:4}  page 2 of 4" in lines
    for name in ("all.csv", "all.json"):
        assert call("listen", "export", str(strict.run_dir), str(tmp_path / name)) == 0
    table = pd.read_csv(tmp_path / "all.csv")
    whole = json.loads((tmp_path / "all.json").read_text())
    assert len(table) == len(whole["ratings"]) == 9 and set(table["listener"]) == {2}
    first, second = planned(strict.run_dir).pages(2)[:2]
    for row in table[table["page"] == 0].to_dict("records"):
        at = "ABCD".index(row["position"])
        assert (row["arm"], row["value"], row["changes"], row["page_s"]) == (first.order[at], 4, 0, 12.5)
        assert row["plays"] == (6, 0, 2, 0)[at]
        assert (row["kind"], row["sample"], row["pair_id"]) == ("practice", first.sample.name, first.sample.pair_id)
    (row,) = [row for row in whole["ratings"] if row["page"] == 1]
    assert (row["position"], row["arm"], row["scale"], row["value"], row["changes"]) == (
        "D",
        second.order[3],
        "per",
        2,
        1,
    )
    assert row["page_s"] is None and row["plays"] is None
    states = {one["listener"]: (one["state"], one["headphones"]) for one in whole["listeners"]}
    assert states[2] == ("consented", True)
    assert whole["study"]["arms"] == planned(strict.run_dir).arms
