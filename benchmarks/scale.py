"""What the runner itself costs with very many pairs: a run of a million, in which sound and models are stubs.

Everything that keeps a run together is the real thing: pairs, ledgers, files with fsync and rename, links, shards,
merging, scores on disk. Generating, levelling and hearing are replaced by constants of a few bytes, so what is measured
is what is left of a pair's time when the methods cost nothing. Limits: 5 ms a pair, 1 GiB a process, 30 s until a
resumed run makes its first new pair.

    python benchmarks/scale.py [--pairs 1000000] [--folder DIR] [--keep]

Each part runs in a process of its own, whose greatest memory is told. Takes about an hour and 20 GB for a million.
"""

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS = 100
GENRES = ("Classical", "EDM", "Hip-hop", "Jazz", "Pop", "Punk", "Rock")
LIMITS = {"ms a pair": 5.0, "GiB": 1.0, "s to resume": 30.0}


def plan_of(folder: Path, count: int) -> Any:
    """A plan over so many items whose clips are not there, with stubs for all that sounds."""
    import numpy as np
    import torch

    from blendbench.composing import compose
    from blendbench.datasets import MusicClip, NoiseClip, Prompt
    from blendbench.evaluators import Evaluator, Scores
    from blendbench.methods import Context
    from blendbench.runs import scoring
    from blendbench.runs.folder import Run
    from blendbench.runs.plan import Plan
    from blendbench.sound import audio, files
    from blendbench.store.write import write_bytes
    from blendbench.tasks import Heard, Music
    from blendbench.tasks.blend.noises import Noises
    from blendbench.tasks.blend.pairing import make_pairs
    from blendbench.tasks.blend.presentation import Blended
    from blendbench.tasks.blend.task import Blend

    class Stub:
        label, adaptive, takes, uses = "Stub", False, (), ()

        def signature(self) -> dict[str, Any]:
            return {}

        def prepare(self, context: Context) -> None:
            pass

        def generate(self, given: list) -> list[Music]:
            return [Music(silence) for _ in given]

    class Ear(Evaluator):
        name, sample_rate, comparable, fingerprint = "stub", 44_100, False, "0"

        def score(self, waveform: torch.Tensor) -> Scores:
            draw = np.random.default_rng(int(waveform[0]))
            return Scores(*(torch.from_numpy(draw.standard_normal(s).astype("f4")) for s in ((1, 16), (10,))))

    silence, ear = torch.zeros(16), Ear()
    data = b"\0" * 64
    digest = hashlib.sha256(data).hexdigest()

    def write(path: Path, *_: Any, **__: Any) -> str:
        write_bytes(Path(path), data)
        return digest

    reference = [MusicClip(str(i), Path("y.wav"), genre=GENRES[i % 7], source=str(i), caption="") for i in range(2500)]
    levels = {"noise_lufs": -18.0, "music_lufs": -18.0, "gain_db": 0.0}
    patches: list[tuple[Any, str, Any]] = [
        (Blended, "present", lambda *_: Heard(silence, dict(levels))),
        (Blend, "reference", lambda self: reference),
        (files, "write", write),
        (audio, "limit_peak", lambda mix: (mix, 0.0)),
        (Noises, "content", lambda self, clip: hashlib.sha256(clip.id.encode()).hexdigest()),
        (Noises, "attempt", lambda self, clip: silence),
        (Run, "heard", lambda self, row: torch.tensor([int(hashlib.md5(row["pair_id"].encode()).hexdigest()[:5], 16)])),
        (scoring, "sound_key", lambda row: f"{row['pair_id']}:{row['arm']}"),
        (scoring, "read_music", lambda clip, rate, seconds: torch.tensor([int(clip.id)])),
        (scoring, "reference_key", lambda clip, seconds: clip.id),
    ]
    for holder, name, value in patches:
        setattr(holder, name, value)

    words = ["experiment=bnmusic/table1", f"run_dir={folder / 'run'}", f"store_dir={folder / 'store'}", "report=false"]
    settings = compose([*words, "statistics.resamples=100", "statistics.over_n=[]", "threads=1", "batch=8"])
    run = Run.of(settings)
    run.evaluators = {"fad": ear, "kl": ear}  # type: ignore[misc] - a cached property
    clips = [NoiseClip(f"clip{i:06d}", Path("x.wav"), f"label{i % 44}", "") for i in range(-(-count // PROMPTS))]
    prompts = [Prompt(f"p{i:03d}", GENRES[i % 7], f"prompt {i}") for i in range(PROMPTS)]
    items = make_pairs("stub", clips, prompts, PROMPTS, 0, count)
    shown = {"direct": run.task.presentation("direct", {"kind": "direct", "label": "Direct"})}
    return Plan(run, run.task, items, {"stub": Stub()}, shown, Context(44_100, "cpu", 0, {}))


def part(name: str, folder: Path, count: int) -> dict[str, float]:
    """One part of the benchmark, in this process."""
    from blendbench import session
    from blendbench.executors import Inline
    from blendbench.runs import progress, results, scoring
    from blendbench.runs.arm import Arm
    from blendbench.runs.work import begin, merge

    began = time.perf_counter()
    out: dict[str, float] = {}
    plan = plan_of(folder, count)
    out["pairs s"] = time.perf_counter() - began
    if name == "make":
        begin(plan)
        began = time.perf_counter()
        Inline().run(plan)
        out["ms a pair"] = 1e3 * (time.perf_counter() - began) / count
    elif name == "resume":
        # The last of the rows were not written when the process was killed, and one was torn.
        for file in [plan.run_dir / "pairs.jsonl", *plan.store.glob("m*/*/ledger.jsonl")]:
            with file.open("r+b") as ledger:
                size = ledger.seek(0, 2)
                ledger.seek(max(0, size - 200_000))
                last = ledger.read().splitlines(keepends=True)[-100:]
                ledger.truncate(size - sum(map(len, last)) + 30)
        enter = Arm.enter

        def first(*given: Any) -> None:
            out.setdefault("s to resume", time.perf_counter() - start)
            enter(*given)

        Arm.enter = first  # type: ignore[method-assign]
        start = time.perf_counter()
        plan_of(folder, count)  # what a fresh process does before anything else
        begin(plan)
        Inline().run(plan)
        out["s in all"] = time.perf_counter() - start
    elif name == "score":
        began = time.perf_counter()
        plan.scoring.part(iter(plan.rows), plan.task.reference())
        out["ms a pair"] = 1e3 * (time.perf_counter() - began) / count
    elif name == "merge":
        assert merge(plan) == 0
        out["merge s"] = time.perf_counter() - began
    elif name == "tabulate":
        run = plan.run
        del plan  # as `session.run` does
        results.sound_key = scoring.sound_key
        began = time.perf_counter()
        session.tabulate(run)
        out["tabulate s"] = time.perf_counter() - began
    elif name == "status":
        began = time.perf_counter()
        assert progress.read(plan.run_dir).left == 0
        out["status s"] = time.perf_counter() - began
    out["GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave what was made in the folder")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    if given.part:
        print(json.dumps(part(given.part, folder, given.pairs)))
        return
    print(f"{given.pairs} pairs in {folder}")
    try:
        for name in ("make", "resume", "score", "merge", "status", "tabulate"):
            words = [sys.executable, __file__, "--pairs", str(given.pairs), "--folder", str(folder), "--part", name]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            told = [f"{value:.3g} {key}" + (f" (limit {LIMITS[key]:g})" if key in LIMITS else "")
                    for key, value in found.items()]  # fmt: skip
            print(f"{name:<10}" + ", ".join(told), flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
