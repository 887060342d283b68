"""Checks: lines that say whether something is there, and what to do where it is not."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what, whether it is there, what was found, and the remedy if it is not.

    `needed` is False for what only some commands use.
    """

    name: str
    sound: bool
    found: str
    remedy: str = ""
    needed: bool = False


def print_checks(checks: Iterable[Check]) -> int:
    """Print the lines as they come; 1 if something needed is missing, else 0."""
    status = 0
    for check in checks:
        mark = "ok  " if check.sound else ("MISS" if check.needed else "--  ")
        print(
            f"{mark}  {check.name:<28} {check.found}"
            + (f"; {check.remedy}" if check.remedy and not check.sound else "")
        )
        status |= check.needed and not check.sound
    return int(status)
