"""Takes the places of this machine out of texts that go into a page."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Hide:
    """Of an absolute path, the last part stays.

    Parameters
    ----------
    run_dir : Path
    settings : mapping
        The run's, whose absolute paths are known to be such, blanks in them or not.
    """

    _PATH = re.compile(r"""(?<![\w./:…-])(?:/[^\s/'"`:,;()\[\]{}<>]+){2,}/?""")

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        known = {str(run_dir.absolute()), str(run_dir.resolve()), str(Path.cwd()), str(Path.home())}
        known |= {text.rstrip("/") for text in _strings(settings) if text.startswith("/")}
        # The longest first: one may lie in another.
        self._known = sorted((text for text in known if text.count("/") > 1), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text with every absolute path cut."""
        for known in self._known:
            text = text.replace(known, f"…/{known.rpartition('/')[2]}")
        return self._PATH.sub(lambda match: "…/" + match[0].rstrip("/").rpartition("/")[2], text)


def _strings(settings: Any) -> Iterator[str]:
    """Every text in nested settings."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for value in settings.values():
            yield from _strings(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _strings(value)
