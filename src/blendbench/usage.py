"""The command line's words: argparse whose mistakes are UsageErrors."""

import argparse

from blendbench.errors import UsageError


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")
