"""`blendbench run`: one experiment, or a sweep of them, by its own keys or by Hydra's -m."""

import itertools
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blendbench import telling
from blendbench.composing import checked, compose, compose_here, explain, with_judges
from blendbench.errors import UsageError
from blendbench.guard import STOPPED, guarded
from blendbench.resources import quiet
from blendbench.texts import shown

_HYDRA_FLAGS = {
    "-m", "--multirun", "--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i", "--resolve", "--package", "-p",
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--shell-completion", "-sc", "--run", "-r",
}  # fmt: skip


def run(arguments: list[str]) -> int:
    arguments = ["retry_failed=true" if word == "--retry-failed" else word for word in arguments]
    arguments = with_judges(arguments)
    if any(word.split("=")[0] in _HYDRA_FLAGS for word in arguments):
        return _hydra(arguments)
    return _start(arguments, compose(arguments), compose)


def _start(words: list[str], settings: dict, compose: Callable[[list[str]], dict]) -> int:
    """Run an experiment, or, if it sweeps by itself, a run a combination, then one table and plot."""
    if not _sweeps(settings):
        return _run_settings(settings) or 0
    from blendbench import config
    from blendbench.reports import sweeps

    jobs = sweeps.plan(words, settings, compose)
    ends = []
    for number, one in enumerate(jobs, start=1):
        print(shown(f"[{number} of {len(jobs)}] " + ", ".join(f"{key}={value}" for key, value in one.values.items())))
        _group(one.settings, config.typed(settings).experiment["name"], words)
        ends.append(_end(one.settings))
        if ends[-1].status == STOPPED:
            return STOPPED
    if not any(end.left for end in ends):
        done = [one for one, end in zip(jobs, ends, strict=True) if end.done]
        _summarise(config.run_dir_of(settings), done, len(jobs))
    elif not config.typed(settings).dry_run:
        print(_LEFT)
    return max(end.status for end in ends)


class _End(NamedTuple):
    """How a job of a sweep ended: its exit status, whether it has results, and whether an executor has it still."""

    status: int
    done: bool
    left: bool


def _end(settings: dict) -> _End:
    """Run a job of a sweep; an error is a line, and the next job's turn."""
    found: list[int | None] = []

    def job() -> int:
        found.append(_run_settings(settings))
        return found[0] or 0

    status = guarded(job)
    return _End(status, bool(found) and found[0] is not None, bool(found) and found[0] is None)


_LEFT = "the jobs were left to the executor; the same command makes their table when they are done"


def _sweeps(settings: dict) -> bool:
    from blendbench import config

    experiment = config.typed(settings).experiment
    return bool(experiment and experiment.get("sweep"))


def _group(settings: dict, name: str, words: list[str]) -> None:
    """Put the runs of a sweep, which is called after an experiment, into one group on W&B."""
    from blendbench import config
    from blendbench.trackers import wandb

    tracker = config.typed(settings).tracker
    settings |= {"tracker": {**tracker, "group": tracker["group"] or wandb.sweep_group(name, words)}}


def _summarise(folder: Path, jobs: Sequence[Any], of: int) -> None:
    """Write and print the table of the jobs that have results; none has where each has said why."""
    if not jobs:
        return
    from blendbench.reports import sweeps

    sweeps.summarise(folder, jobs, of)
    print("\n" + (folder / "table.md").read_text(encoding="utf-8"))
    print(f"sweep  {folder / 'sweep.csv'}\nplot   {folder / 'figures' / 'sweep.png'}")


def _run_settings(settings: dict) -> int | None:
    """Run an experiment and print its table; one that is finished is printed at once.

    Returns the exit status, or None after a dry run and where an executor does not wait.
    """
    from blendbench import config, finished

    given = config.typed(settings)
    if given.experiment and not (given.dry_run or given.retry_failed):
        run_dir = config.run_dir_of(settings)
        if finished.is_finished(settings, run_dir):
            print(f"{run_dir} is finished; nothing is to be done")
            return _print_run(run_dir, settings)
    with telling.stage("start", bar=False, kind="start"):
        from blendbench import session
        from blendbench.runs import progress

        quiet()
    done = session.run(settings)
    if done is None:
        return None
    status = _print_run(done, settings)
    print(progress.took(done, telling.accounts()))
    telling.restart()
    return status


def _print_run(run_dir: Path, settings: dict) -> int:
    from blendbench import config
    from blendbench.runs import KEY
    from blendbench.store.ledger import Ledger

    print("\n" + (run_dir / "table.md").read_text(encoding="utf-8"))
    page = f"report {run_dir / 'report' / 'index.html'}\n" if config.typed(settings).report else ""
    print(f"audio  {run_dir / 'mixes'}\n{page}table  {run_dir / 'table.md'}")
    rows = Ledger(run_dir / "pairs.jsonl", KEY)
    failed = sum(row["status"] != "ok" for row in rows)
    if failed:
        print(f"blendbench: {failed} of {len(rows)} rows failed; pairs.jsonl says why", file=sys.stderr)
    return 0 if failed < len(rows) else 1


def _hydra(arguments: list[str]) -> int:
    """Hydra's own flags: help, config printing and sweeps, through `hydra.main`, and whatever launcher is chosen."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from blendbench.store.ledger import Ledger

    @hydra.main(version_base="1.3", config_path="pkg://blendbench.conf", config_name="config")
    def task(composed: DictConfig) -> int:
        return hydra_job(composed, arguments)

    sweep = bool({"-m", "--multirun"} & set(arguments))
    words = _in_hydras_order(arguments)
    if sweep:
        from blendbench.reports import sweeps

        words = sweeps.with_first(words)
    sys.argv = ["blendbench run", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that a wrong key is one line here, too
    with tempfile.TemporaryDirectory() as folder:
        # A sweep's lies where its runs lie by default, as a launcher may send the jobs to other machines.
        place = Path("runs", "sweeps") if sweep else Path(folder)
        file = (place / f".jobs-{secrets.token_hex(8)}.jsonl").absolute()
        os.environ[_JOBS] = str(file)
        try:
            task()
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise UsageError(explain(error)) from error
        except _Stop:
            return STOPPED
        finally:
            del os.environ[_JOBS]
            jobs = sorted(Ledger(file, ("number",)), key=lambda row: row["number"])
            file.unlink(missing_ok=True)
    if sweep and not jobs:
        raise UsageError("-m: no job to run; a glob(...) matches nothing")
    if sweep:
        _summarise_hydras(jobs, arguments)
    return max((row["status"] for row in jobs), default=0)


def _in_hydras_order(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags after the overrides, as Hydra knows no others between them."""
    words, flags = [], []
    rest = iter(arguments)
    for word in rest:
        if word.startswith("-"):
            flags += [word, *itertools.islice(rest, word in _WITH_VALUE)]
        else:
            words.append(word)
    return words + flags


_WITH_VALUE = {
    "--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp",
}  # fmt: skip
_JOBS = "BLENDBENCH_JOBS"
"""The environment variable that names the file in which Hydra's jobs, in whatever process, say how they ended."""


def hydra_job(composed: Any, arguments: list[str]) -> int:
    """One job of Hydra's: a run, or one of a sweep's, whose end is written down for who started the sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from blendbench import config
    from blendbench.store.ledger import Ledger

    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    number = hydra.job.num if hydra.mode == RunMode.MULTIRUN else 0
    record: dict[str, Any] = {"number": number, "words": words, "asked": None, "settings": None}
    end = _End(0, False, False)

    def job() -> int:
        nonlocal end
        settings = checked(composed)
        if hydra.mode != RunMode.MULTIRUN:
            return _start(words, settings, compose_here)
        from blendbench.reports import sweeps

        experiment = config.typed(settings).experiment
        if _sweeps(settings):
            name = experiment["name"]
            raise UsageError(f"experiment={name} sweeps by itself; leave -m out, or set experiment.sweep=null")
        if experiment:
            several = "experiment" in sweeps.swept_keys(arguments)
            _group(settings, "sweep" if several else experiment["name"], arguments)
        settings |= {"report": False}  # `blendbench report` makes it for the job that one wants to hear
        asked = record["asked"] = config.typed(settings).run_dir
        if asked:
            # Every job of a sweep has its own folder below the one asked for.
            settings |= {"run_dir": str(Path(asked) / config.digest(settings))}
        record["settings"] = settings
        end = _end(settings)
        return end.status

    # Caught here, or Hydra would print its own account of it first.
    status = guarded(job)
    ledger = Ledger(Path(os.environ[_JOBS]), ("number",))
    ledger.append(record | end._asdict() | {"status": status})
    ledger.close()
    if status == STOPPED:
        raise _Stop  # Hydra would begin the next job
    return status


class _Stop(BaseException):
    """The user, or the machine, wants the sweep to end."""


def _summarise_hydras(jobs: list[dict[str, Any]], arguments: list[str]) -> None:
    """One table and plot over the keys that a Hydra sweep varied."""
    from blendbench.reports import sweeps
    from blendbench.trackers import wandb

    if any(job["left"] for job in jobs):
        if not all(job["settings"]["dry_run"] for job in jobs if job["left"]):
            print(_LEFT)
        return
    values = sweeps.swept_values([job["words"] for job in jobs], sweeps.swept_keys(arguments))
    done = [(one, job) for one, job in zip(values, jobs, strict=True) if job["done"]]
    if not done or not values[0]:
        return  # nothing was varied, or every job has said why it has no results
    first = done[0][1]
    name = wandb.sweep_group(first["settings"]["experiment"]["name"], arguments)
    folder = Path(first["asked"] or Path("runs", "sweeps", name))
    _summarise(folder, [sweeps.Job(one, job["settings"]) for one, job in done], len(jobs))
