"""Where a Python package index has a wheel, by the simple repository API (PEP 503 and 691).

PIP_INDEX_URL or UV_DEFAULT_INDEX name another index than PyPI, as they do for pip and uv.
"""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from typing import Any

from blendbench import __version__
from blendbench.errors import BlendbenchError, one_line

_ACCEPTED = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_MOST = 1 << 25
"""Bytes of an answer that are read."""


def index_url() -> str:
    """The index that is asked."""
    return os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX") or "https://pypi.org/simple"


def wheel_url(requirement: str, filename: str) -> str:
    """The address of a wheel.

    Parameters
    ----------
    requirement : str
        NAME==VERSION.
    filename : str
        The wheel's.

    Raises
    ------
    BlendbenchError
        Naming the index, if it cannot be asked or does not have the file.
    """
    name = requirement.partition("==")[0]
    page = f"{index_url().rstrip('/')}/{re.sub('[-_.]+', '-', name).lower()}/"
    shown = re.sub("//[^/@]*@", "//", page)  # an index may be named with a password
    remedy = "set PIP_INDEX_URL to another index, or BLENDBENCH_MIRROR to where the file lies"
    try:
        asked = urllib.request.Request(page, headers={"Accept": _ACCEPTED, "User-Agent": f"blendbench/{__version__}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            content, base = answer.read(_MOST), answer.url
            if "json" in answer.headers.get_content_type():
                links = [(str(file["filename"]), str(file["url"])) for file in json.loads(content)["files"]]
            else:
                links = _links(content.decode())
    except (OSError, ValueError, KeyError, TypeError) as error:
        status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        reason = one_line(f"{status}{getattr(error, 'reason', error)}") or type(error).__name__
        raise BlendbenchError(f"{requirement}: {shown}: {reason}; {remedy}") from error
    for text, link in links:
        if text == filename:
            return urllib.parse.urljoin(base, link).partition("#")[0]
    raise BlendbenchError(f"{requirement}: {shown} has no {filename}; {remedy}")


def _links(page: str) -> list[tuple[str, str]]:
    """File name and address of each link of an index's page."""
    found: list[tuple[str, str]] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
            address = dict(attrs).get("href") if tag == "a" else None
            if address:
                path = urllib.parse.urlsplit(address).path
                found.append((urllib.parse.unquote(path.rsplit("/", 1)[-1]), address))

    Links().feed(page)
    return found
