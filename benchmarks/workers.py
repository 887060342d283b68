"""Two workers on the CPU against one: the same bytes, and the time of each stage in both.

    python benchmarks/workers.py [--pairs 14] [key=value ...]

Runs `experiment=bnmusic/table1` with `executor=local`, one thread a worker, a store of its own each time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=14)
    parser.add_argument("words", nargs="*", metavar="key=value")
    given = parser.parse_args()
    command = [sys.executable, "-c", "from blendbench.cli import main; main()", "run", "experiment=bnmusic/table1"]
    local = ["executor=local", "executor.devices=[cpu]", "executor.shards=8", "threads=1", "report=false"]
    tables: list[bytes] = []
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2):
            folder = Path(place) / str(workers)
            places = [f"run_dir={folder / 'run'}", f"store_dir={folder / 'store'}", f"limit={given.pairs}"]
            began = time.perf_counter()
            words = [*command, *local, f"executor.workers_per_device={workers}", *places, *given.words]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            tables.append((folder / "run" / "results.csv").read_bytes())
            seconds: Counter[str] = Counter()
            for file in (folder / "run" / "workers").glob("*.json"):
                seconds.update(json.loads(file.read_bytes())["stages"])
            times.append({"whole run": time.perf_counter() - began} | dict(seconds))
    print(f"{given.pairs} pairs; seconds of the whole run, and of each stage summed over the workers")
    print(f"{'':<20}{'1 worker':>10}{'2 workers':>11}{'ratio':>8}")
    for name in times[0]:
        one, two = (found.get(name, 0.0) for found in times)
        print(f"{name:<20}{one:>10.1f}{two:>11.1f}{two / one:>8.2f}")
    print("results.csv: " + ("the same bytes" if tables[0] == tables[1] else "NOT the same bytes"))
    sys.exit(tables[0] != tables[1])


if __name__ == "__main__":
    main()
