"""Trackers: who is told of a finished run. The run's folder is the truth, and a tracker mirrors it.

A tracker is a class that `_target_` names in `conf/tracker`; without one the entry is that of Weights & Biases. It has
`mirror(run)`, which says where the run can be seen, or None, and never raises: what goes wrong is one line on stderr.
"""

from typing import Any, Protocol

from blendbench import config
from blendbench.trackers import wandb


class Tracker(Protocol):
    """The interface of a tracker; see the module's text."""

    def mirror(self, run: Any) -> str | None:
        """Mirror a `runs.folder.Run`; returns where it can be seen, None for nowhere."""
        ...


class WandB:
    """Weights & Biases, or nothing where its mode says so."""

    def mirror(self, run: Any) -> str | None:
        """As `wandb.mirror`, by the run's own settings."""
        return wandb.mirror(run.dir, run.settings)


def of(given: config.Config) -> Tracker:
    """The tracker of a configuration; raises BlendbenchError if its entry is wrong."""
    entry = given.tracker or {}
    if "_target_" not in entry:
        return WandB()
    tracker: Tracker = config.build(entry, "tracker", given.allow_targets)
    return tracker
