"""The page on which listeners rate a study's clips: a Starlette application over the database of answers.

A listener is known by an unguessable token in the address, and by nothing else: no cookie, no account, no record of
addresses. A token opens its own listener's pages, ratings and sounds alone. Every page forbids scripts and styles but
its own, and loads nothing from elsewhere.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blendbench.errors import BlendbenchError, one_line
from blendbench.listening.answers import ATTEMPTS, FIRST, REFERENCE, Answers, Listener, Refused
from blendbench.listening.study import Page, position

_PAGE = Path(__file__).with_name("page")
_STATIC = {".js": "text/javascript", ".css": "text/css"}
_MOST_BYTES = 8192
"""Of a request's body."""
_BODY_S = 20.0
"""How long a request's body may take to come."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
_PLACES = frozenset({FIRST, REFERENCE, *(position(index) for index in range(26))})
_UNKNOWN = "this link is not known; check that it is whole, or ask for another"


def application(answers: Answers) -> ASGIApp:
    """The application that serves a study.

    Parameters
    ----------
    answers : Answers
        Database of the study's answers.
    """
    pages = _Pages(answers)
    post = partial(Route, methods=["POST"])
    app = Starlette(
        routes=[
            Route("/", _front),
            Route("/favicon.ico", _no_icon),
            Route("/static/{name}", _static),
            Route("/s/{token}", pages.bare),
            Route("/s/{token}/", pages.page),
            Route("/s/{token}/state", pages.state),
            Route("/s/{token}/clips/{name}.flac", pages.clip),
            post("/s/{token}/consent", pages.answer(_consent)),
            post("/s/{token}/volume", pages.answer(_volume)),
            post("/s/{token}/check", pages.answer(_check)),
            post("/s/{token}/rate", pages.answer(_rate)),
            post("/s/{token}/next", pages.answer(_next)),
            post("/s/{token}/withdraw", pages.answer(_withdraw)),
        ],
        exception_handlers={HTTPException: _failed, Refused: _refused, BlendbenchError: _broken},
    )
    # Starlette's own would name the scheme and host that it sees, which are others before a web server with TLS.
    app.router.redirect_slashes = False
    return _Guard(app)


class _Guard:
    """Adds the headers that every answer has, and refuses what another site sends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                own = _HEADERS | ({} if b"cache-control" in there else {"cache-control": "no-store"})
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]
            await send(message)

        if (b"sec-fetch-site", b"cross-site") in scope["headers"] and scope["method"] == "POST":
            await _error(403, "answers are taken from the study's own page alone")(scope, receive, answer)
            return
        await self.app(scope, receive, answer)


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": one_line(text)}, status)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: _UNKNOWN, 405: "this address does not take that method"}
    text = texts.get(error.status_code, error.detail) if error.detail in _STANDARD else error.detail
    if request.method in ("GET", "HEAD"):
        return PlainTextResponse(f"{text}\n", error.status_code, error.headers)
    return JSONResponse({"error": text}, error.status_code, error.headers)


_STANDARD = {"Not Found", "Method Not Allowed"}


async def _refused(request: Request, error: Exception) -> Response:
    return _error(409, str(error))


async def _broken(request: Request, error: Exception) -> Response:
    print(f"blendbench: {one_line(str(error))}", file=sys.stderr, flush=True)
    return _error(503, "answers cannot be kept at the moment; this page tries again")


async def _front(request: Request) -> Response:
    return PlainTextResponse("A listening study runs here. Open the link that you were given.\n")


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


async def _static(request: Request) -> Response:
    kinds = {file.name: _STATIC[file.suffix] for file in _PAGE.iterdir() if file.suffix in _STATIC}
    name = request.path_params["name"]
    if name not in kinds:
        raise HTTPException(404)
    return FileResponse(_PAGE / name, media_type=kinds[name], headers={"cache-control": "no-cache"})


class _Pages:
    """What a listener's link leads to."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self._allowed: dict[int, frozenset[str]] = {}

    async def bare(self, request: Request) -> Response:
        """A link that has lost its last slash on the way."""
        await self._who(request)
        return RedirectResponse(f"{request.path_params['token']}/")

    async def page(self, request: Request) -> Response:
        await self._who(request)
        return FileResponse(_PAGE / "index.html", media_type="text/html", headers={"cache-control": "no-cache"})

    async def state(self, request: Request) -> Response:
        listener = await self._who(request)
        return JSONResponse(await run_in_threadpool(_state, self.answers, listener))

    async def clip(self, request: Request) -> Response:
        listener, name = await self._who(request), request.path_params["name"]
        if name not in self._names(listener.number):
            raise HTTPException(404, "there is no such sound in this study")
        file = self.answers.study.clip_file(name)
        if file.is_symlink() or not file.is_file():
            print(f"blendbench: {file}: missing, or a link; put it back from a copy", file=sys.stderr, flush=True)
            raise HTTPException(404, "this sound is missing; tell whoever gave you the link")
        # When the file was written would tell what it is: the plan writes its arms in order.
        undated = {"etag": f'"{name}"', "last-modified": formatdate(0, usegmt=True)}
        headers = {"cache-control": "private, max-age=86400, immutable"} | undated
        return FileResponse(file, media_type="audio/flac", headers=headers)

    def answer(
        self, keep: Callable[[Answers, Listener, dict[str, Any]], bool]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that keeps an answer and says where the listener is then, unless `keep` returns True."""

        async def endpoint(request: Request) -> Response:
            listener = await self._who(request)
            body = await _body(request)

            def work() -> dict[str, Any]:
                if keep(self.answers, listener, body):
                    return {"saved": True}
                found = self.answers.listener(request.path_params["token"])
                assert found is not None
                return _state(self.answers, found)

            return JSONResponse(await run_in_threadpool(work))

        return endpoint

    async def _who(self, request: Request) -> Listener:
        found = await run_in_threadpool(self.answers.listener, request.path_params["token"])
        if found is None:
            raise HTTPException(404)
        return found

    def _names(self, listener: int) -> frozenset[str]:
        """Sounds that a listener may load: those of their own pages, and what comes before these."""
        if listener not in self._allowed:
            study = self.answers.study
            names = {study.volume.name, *(clip.name for clip, _ in study.checks)}
            for page in self.answers.pages(listener):
                names |= {clip.name for clip in page.sample.sounds}
            self._allowed[listener] = frozenset(names)
        return self._allowed[listener]


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request holds; raises HTTPException for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body is not application/json")
    data = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > _MOST_BYTES:
                    raise HTTPException(413, f"the body has more than {_MOST_BYTES} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body takes too long to come") from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return body


def _whole(body: dict[str, Any], key: str, low: int, high: int) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise HTTPException(400, f"{key}: not a whole number from {low} to {high}")
    return value


def _true(body: dict[str, Any], key: str) -> None:
    if body.get(key) is not True:
        raise HTTPException(400, f"{key}: not true")


def _consent(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    _true(body, "agree")
    answers.consent(listener)
    return False


def _volume(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    answers.set_volume(listener)
    return False


def _check(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    attempt, trial = _whole(body, "attempt", 0, ATTEMPTS - 1), _whole(body, "trial", 0, 99)
    answers.check(listener, attempt, trial, _whole(body, "answer", 1, 3))
    return False


def _rate(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    place, scale = body.get("clip"), body.get("scale")
    if not isinstance(place, str) or not isinstance(scale, str):
        raise HTTPException(400, "clip, scale: not texts")
    ends = answers.study.settings.range
    page, stamp = _whole(body, "page", 0, 9999), _whole(body, "stamp", 0, 2**53)
    value = _whole(body, "value", ends.low, ends.high)
    answers.rate(listener, page, place, scale, value, stamp)
    return True


def _next(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    seconds, plays = body.get("seconds"), body.get("plays")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 10_000_000:
        raise HTTPException(400, "seconds: not a number from 0")
    if not isinstance(plays, dict) or not _PLACES.issuperset(plays):
        raise HTTPException(400, "plays: not an object of counts by clip")
    counts = {place: _whole(plays, place, 0, 1_000_000) for place in plays}
    answers.finish_page(listener, _whole(body, "page", 0, 9999), round(float(seconds), 3), counts)
    return False


def _withdraw(answers: Answers, listener: Listener, body: dict[str, Any]) -> bool:
    _true(body, "confirm")
    answers.withdraw(listener)
    return False


def _state(answers: Answers, listener: Listener) -> dict[str, Any]:
    """What the page must show a listener now."""
    study, at = answers.study, answers.progress(listener)
    pages, ends = answers.pages(listener.number), study.settings.range
    done = {"page": at.page, "finished": len(pages)}.get(at.step, 0)
    state: dict[str, Any] = {
        "title": study.settings.title,
        "step": at.step,
        "pages": {"done": done, "of": len(pages)},
        "scales": [
            {"name": name, "label": one.label, "text": one.text, "low": one.low, "high": one.high}
            for name, one in study.scales.items()
        ],
        "range": {"low": ends.low, "high": ends.high, "buttons": ends.buttons},
    }
    if at.step == "consent":
        state["consent"] = {"text": study.consent(study.minutes), "contact": study.settings.contact}
    elif at.step == "volume":
        state["volume"] = {"clip": study.volume.name}
    elif at.step == "headphones":
        clip, _ = study.checks[at.trial]
        state["headphones"] = {
            "attempt": at.attempt, "attempts": ATTEMPTS, "trial": at.trial, "of": len(study.checks), "clip": clip.name,
        }  # fmt: skip
    elif at.step == "page":
        page = pages[at.page]
        coming = pages[at.page + 1] if at.page + 1 < len(pages) else None
        state["page"] = {
            "index": at.page,
            "practice": page.sample.kind == "practice",
            "first": page.sample.first and {"clip": page.sample.first.name, "label": _first_called(answers)},
            "reference": page.sample.reference and page.sample.reference.name,
            "clips": [
                {"place": position(index), "clip": page.sample.clips[condition].name}
                for index, condition in enumerate(page.order)
            ],
            "ratings": answers.ratings(listener.number, at.page),
            "stamp": answers.latest_stamp(listener.number),
            # In the order shown: that of the plan is the same on every page, and would tell which arm is which.
            "next": _sounds(coming) if coming else [],
        }
    elif at.step == "finished":
        state["thanks"] = study.settings.thanks
    return state


def _first_called(answers: Answers) -> str:
    subject = answers.study.subject
    return subject.parts[subject.first]


def _sounds(page: Page) -> list[str]:
    """Names of a page's sounds, as they come on it."""
    return [clip.name for clip in (*page.sample.open, *(page.sample.clips[condition] for condition in page.order))]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises BlendbenchError if the address is not to be had. Port 0 takes any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BlendbenchError(f"--host {host} --port {port}: {reason}; choose another port, or --port 0") from None
    # What it accepts inherits this: else an answer's body waits 40 ms until the client has acknowledged its headers.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def serve(answers: Answers, bound: socket.socket) -> None:
    """Serve a study until the process is told to stop."""
    import uvicorn

    config = uvicorn.Config(
        application(answers), log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off",
        proxy_headers=False, limit_concurrency=1000, timeout_keep_alive=30, timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16384, http="h11",
    )  # fmt: skip
    uvicorn.Server(config).run([bound])
