"""What becomes of a failure: one line on stderr and an exit status."""

import os
import sys
import traceback
from collections.abc import Callable

from blendbench.errors import BlendbenchError, UsageError
from blendbench.texts import shown

STOPPED = 130
"""Exit status of a command that was interrupted."""
DEBUG = "BLENDBENCH_DEBUG"
"""The environment variable that asks for tracebacks."""


def guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        status, text = STOPPED, "stopped; the same command goes on where it was"
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        status, text = (2 if isinstance(error, UsageError) else 1), str(error)
        if not isinstance(error, BlendbenchError):
            first = (text.strip().splitlines() or [""])[0]
            text = f"unexpected {type(error).__name__}: {first} (add --debug for the traceback)"
    print("blendbench: " + shown(" ".join(text.split())), file=sys.stderr)
    return status
