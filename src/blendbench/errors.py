"""The two kinds of failure a user meets.

`BlendbenchError` ends a command with one line on stderr; `ClipError` concerns one clip, so a run records it as a row
and goes on. Both carry a message that names the file or key, what is wrong and what to do.
"""

from pathlib import Path


class BlendbenchError(Exception):
    """A failure the user can mend; its text is the one line that the command prints."""


class ClipError(BlendbenchError):
    """One clip cannot take part; a run writes the text as that row's reason."""


def printable(path: Path | str) -> str:
    """A path or text as one line that any terminal and log takes: characters that do not print are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def one_line(text: str) -> str:
    """A message in one line, without the full stop at its end."""
    return " ".join(text.split()).rstrip(".")


class UsageError(BlendbenchError):
    """Wrong words on the command line; exit status 2."""
