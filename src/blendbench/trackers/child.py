"""The child process that talks to W&B: `python -m blendbench.trackers.child`, an order on standard input."""

import json
import math
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from blendbench.errors import BlendbenchError, one_line
from blendbench.trackers.mirrored import summary, tables
from blendbench.trackers.settings import TrackerConfig

_MOST_TAG = 64  # characters of a tag that W&B takes
_SLACK = 2  # seconds that W&B's own time limit is ahead of ours


def log(order: dict[str, Any]) -> dict[str, str]:
    """In the child: make the tables, start W&B, log all of it once, and wait until it is written or uploaded."""
    run_dir, settings, tracker = Path(order["run_dir"]), order["settings"], TrackerConfig(**order["tracker"])
    found = tables(run_dir, tracker.media_pairs)
    mode: Any = tracker.mode
    began = time.monotonic()
    # Ends the process, even where W&B hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(tracker.timeout_s) + _SLACK)
    import wandb

    left = max(1.0, tracker.timeout_s - (time.monotonic() - began))
    os.environ["WANDB_INIT_TIMEOUT"] = str(left)
    experiment = settings["experiment"]
    tags = [name[:_MOST_TAG] for name in dict.fromkeys([experiment["name"], *settings["dataset"]])]
    # Not resumed: a run of the same id starts over, so that each table is logged once, however often it is sent.
    with wandb.init(
        project=tracker.project, entity=tracker.entity, id=order["id"], name=run_dir.name, group=tracker.group or None,
        tags=tags, notes=experiment["title"], job_type="run", config=settings, dir=str(run_dir), mode=mode,
    ) as run:  # fmt: skip
        signal.alarm(0)
        # W&B would cut a table off.
        wandb.Table.MAX_ROWS = wandb.Table.MAX_ARTIFACT_ROWS = max(200_000, *(len(t.rows) for t in found.values()))
        whole = {name: wandb.Table(table.columns, [_shown(row) for row in table.rows]) for name, table in found.items()}
        figures = sorted((run_dir / "figures").glob("*.png"))
        run.log(whole | {f"figures/{file.stem}": wandb.Image(str(file)) for file in figures})
        run.summary.update(summary(found["results"]))
        folder, url = Path(run.dir).parent, run.url or ""
    lost = _lost(folder / "logs" / "debug-internal.log") if tracker.mode == "online" else ""
    if lost:
        raise BlendbenchError(f"not all of it was taken ({lost})")
    return {"folder": str(folder), "url": url}


def _lost(log: Path) -> str:
    """The first upload that failed, by W&B's own log; its API says nothing of one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] == "ERROR" and "failed to" in entry["msg"]:
                return one_line(entry["msg"])
    return ""


def _shown(row: list[Any]) -> list[Any]:
    """A table's row with W&B's players in place of files."""
    import wandb

    players = {True: wandb.Image, False: wandb.Audio}
    return [players[cell.suffix == ".png"](str(cell)) if isinstance(cell, Path) else cell for cell in row]


def main() -> None:
    """The child process: an order on stdin, the answer on stdout, and nothing else there."""
    answered = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = log(json.load(sys.stdin))
    except BaseException as error:
        text = (str(error).strip().splitlines() or [""])[0]
        answer = {"error": one_line(text if isinstance(error, BlendbenchError) else f"{type(error).__name__}: {text}")}
        if isinstance(error, ImportError) and error.name == "wandb":
            answer = {"error": "wandb is not installed", "remedy": "pip install wandb"}
        answered.write(json.dumps(answer))
        answered.flush()
        # At an ordinary end, W&B would try once more to reach its server.
        os._exit(1)
    answered.write(json.dumps(answer))
    answered.flush()


if __name__ == "__main__":
    main()
