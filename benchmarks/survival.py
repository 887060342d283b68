"""Runs killed with SIGKILL two hundred times at random moments: the results must not change by a byte.

    python benchmarks/survival.py [--kills 200] [--seed 1] [--pairs 4]

Small models with random weights, all five arms of Table 1.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.survival import Nursery, survive
from support.worlds import build_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Nursery() as nursery:
        world = build_world(Path(place) / "world")

        def command(folder: Path) -> list[str]:
            there = world.with_store(folder / "store")
            return there.run_words(folder / "run", f"limit={given.pairs}", "report=false")

        began = time.monotonic()
        kills, runs, seconds = survive(nursery, command, Path(place), given.kills, given.seed)
        whole = time.monotonic() - began - seconds
    print(
        f"{kills} kills in {runs} runs, {whole:.0f} s; an undisturbed run takes {seconds:.1f} s; results.csv the same"
    )


if __name__ == "__main__":
    main()
