"""Texts that people write (labels, titles, prompts, names), as each output takes them: one place an output.

Files for programs hold the true text: `pairs.jsonl`, and CSV by `csv_text`. What people read holds it in one line
(`shown`), escaped for its language: `markdown`, `latex`, `for_spreadsheet`; `short` for figures. Ordinary text stays as
it is, character by character.
"""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_SPACE = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]\s*")
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor or turns the rest of a line around, and halves of characters."""


def shown(text: object) -> str:
    """A text in one line that any terminal, log and page takes: line breaks are spaces, control characters escaped."""
    line = _SPACE.sub(" ", str(text))
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


def short(text: object, most: int = 80) -> str:
    """A text in one line of at most so many characters, cut at its end."""
    line = shown(text)
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


# Markdown

_MARKDOWN = re.compile(
    r"""
    [*`~$]                              # emphasis, code, struck out, mathematics
    | \\ (?= [!-/:-@\[-`{-~] | $ )      # what would escape the next character
    | (?<![^\W_]) _ | _ (?![^\W_])      # not within a word
    | \] (?= [(\[:] )                   # a link, or the definition of one
    | < (?= [A-Za-z/!?] )
    | & (?= \#?\w+; )
    """,
    re.VERBOSE,
)
_BLOCK = re.compile(r"(?= [>#] | [-+=] (?: \s | $ | [-=] ) )", re.VERBOSE)
_NUMBERED = re.compile(r"(\d+)(?=[.)](?:\s|$))")


def markdown(text: object, cell: bool = False) -> str:
    """A text as a paragraph of Markdown, or with `cell` as a table's cell, in which it is read as it was written."""
    line = _MARKDOWN.sub(lambda found: f"\\{found[0]}", shown(text).strip())
    if cell:
        return line.replace("|", r"\|")
    if _BLOCK.match(line):
        return f"\\{line}"
    return _NUMBERED.sub(r"\1\\", line, count=1) if _NUMBERED.match(line) else line


def heading(text: object) -> str:
    """A text after `# `; signs at its end would count as the heading's own."""
    line = markdown(text, cell=True).replace(r"\|", "|")
    return re.sub(r"(#+)$", r"\\\1", line)


# LaTeX

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "“": "``", "”": "''"}
_LATEX |= {"∞": r"$_\infty$", "–": "--", "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}"}
_LATEX |= {"|": r"\textbar{}", "`": r"\`{}", '"': r"\texttt{\char34}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_LIGATURE = re.compile(r"([-',])(?=\1)")
_LACKING = "«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ"
_KNOWN = r"\x20-\u017eȘșȚț‐–—‘’“”†‡•…‰€™←↑→↓∞−"
_UNKNOWN = re.compile(rf"(?:[{_LACKING}]|[^{_KNOWN}])+(?: (?:[{_LACKING}]|[^{_KNOWN}])+)*")
"""What pdfLaTeX has no glyph for without further packages."""
_CODES = r"\providecommand{\unicodetext}[2]{\ifdefined\Umathchar#1\else\texttt{#2}\fi}"


def latex(text: object) -> str:
    r"""A text with LaTeX's special characters escaped.

    Characters that pdfLaTeX has no glyph for stand as `\unicodetext{CHARACTERS}{U+CODES}`, which `latex_file` defines:
    LuaLaTeX and XeLaTeX show the characters, pdfLaTeX their codes.
    """
    line = unicodedata.normalize("NFC", shown(text))
    out, at = [], 0
    for found in _UNKNOWN.finditer(line):
        codes = " ".join(f"U+{ord(character):04X}" for character in found[0] if character != " ")
        out += [_escaped(line[at : found.start()]), rf"\unicodetext{{{found[0]}}}{{{codes}}}"]
        at = found.end()
    return "".join([*out, _escaped(line[at:])])


def _escaped(text: str) -> str:
    parted = _LIGATURE.sub("\\1\0", text)
    return "".join(_LATEX.get(character, character) for character in parted).replace("\x00", "{}")


def latex_file(lines: list[str]) -> str:
    """Lines of LaTeX as a file, with the definition that `latex` needs where it does."""
    text = "\n".join([*lines, ""])
    return f"{_CODES}\n{text}" if r"\unicodetext{" in text else text


# CSV

_NUMBER = r"(?:[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|nan)|–)"
_CELL = re.compile(rf"{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?(?: / {_NUMBER})*")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_END = "\r\n\x1e"


def csv_text(frame: "pd.DataFrame", header: bool = True, float_format: str | None = None) -> str:
    """A table as CSV, every text as it is; read back, cells are equal."""
    # csv.writer quotes a cell that holds a character of the line's end; a lone \r would end a row unquoted.
    text = frame.to_csv(index=False, header=header, lineterminator=_END, float_format=float_format)
    return text.replace(_END, "\n")


def for_spreadsheet(text: object) -> str:
    """A cell for a spreadsheet, which would compute a text that begins like a formula: such a text gets a `'` first."""
    cell = str(text)
    return f"'{cell}" if _FORMULA.match(cell) and not _CELL.fullmatch(cell) else cell


def from_spreadsheet(cell: str) -> str:
    """The text of which `for_spreadsheet` made a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
