"""What a sweep costs over a single run: ten alphas of stage 2, whose music is made once.

Runs `experiment=bnmusic/sweep_alpha` once with one alpha and once as it is, each with a store of its own, and prints
both times and their ratio. Limit: 1.3.

    python benchmarks/sweep.py [--pairs 21] [key=value ...]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(folder: Path, pairs: int, words: list[str]) -> float:
    """Wall time of the command, with a store below a folder."""
    command = [sys.executable, "-c", "from blendbench.cli import main; main()", "run", "experiment=bnmusic/sweep_alpha"]
    places = [f"run_dir={folder / 'run'}", f"store_dir={folder / 'store'}"]
    start = time.perf_counter()
    subprocess.run(
        [*command, f"limit={pairs}", *places, *words],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("words", nargs="*", metavar="key=value")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        one = seconds(Path(place) / "one", given.pairs, ["experiment.sweep=null", *given.words])
        ten = seconds(Path(place) / "ten", given.pairs, given.words)
    print(f"one run of {given.pairs} pairs: {one:.1f} s; ten alphas: {ten:.1f} s; ratio {ten / one:.2f} (at most 1.3)")


if __name__ == "__main__":
    main()
