"""The command line. Heavy libraries are imported inside commands, so that help answers at once.

Exit status: 0 done, 1 failed, 2 wrong usage. A failure is one line on stderr; `--debug` adds the traceback.
"""

import argparse
import io
import itertools
import os
import secrets
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from blendbench import __version__, telling
from blendbench.errors import BlendbenchError
from blendbench.texts import shown

USAGE = f"""blendbench {__version__}: blend environmental noise into music

  blendbench run experiment=bnmusic/table1 [key=value ...]    run an experiment and print its table
  blendbench blend NOISE --prompt TEXT --out DIR [key=value ...]   make music that hides one noise
  blendbench status RUN_DIR     how far a run is, over all its workers
  blendbench table RUN_DIR      rebuild the tables from a run's rows
  blendbench report RUN_DIR     rebuild the report page of a run
  blendbench listen RUN_DIR     let people rate a run's mixes on a web page of this machine; `listen analyse` etc.
  blendbench push RUN_DIR       mirror a run to Weights & Biases
  blendbench data check|fetch|manifest [NAME ...]  which data sets are there; download; write down what is there
  blendbench models list|check|fetch [NAME ...]   which models are there and whole; download those that are not
  blendbench doctor             what this machine has, and what to do about what is missing
  blendbench train ...          train the built-in models again

run also takes Hydra's flags: -m (sweep), --cfg job (print the config), --help (all keys and groups).
--retry-failed does again what failed before. executor=local|slurm fans out; dry_run=true prints the plan alone.
Any command takes --debug to show a traceback on failure, and --quiet to say nothing while it works.
"""


_STOPPED = 130
"""Exit status of a command that was interrupted."""


class UsageError(BlendbenchError):
    """Wrong words on the command line; exit status 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `blendbench` program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet = "--quiet" in arguments
    if "--debug" in arguments:
        os.environ[_DEBUG] = "1"  # also for the jobs of a sweep, in whatever process
    arguments = [word for word in arguments if word not in ("--debug", "--quiet")]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has not all characters is no failure
    # Torch's threads would spin while they wait for each other, and on a machine that others use, too, that takes ten
    # times as long. Read as torch is loaded; processes begun from here take it over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with telling.aloud(quiet):
            status = _guard(lambda: _dispatch(arguments))
        sys.exit(status)
    finally:
        os.environ.pop(_DEBUG, None)


_DEBUG = "BLENDBENCH_DEBUG"
"""The environment variable that asks for tracebacks."""


def _guard(command: Callable[[], int]) -> int:
    try:
        return command()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        status, text = _STOPPED, "stopped; the same command goes on where it was"
    except Exception as error:
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        status, text = (2 if isinstance(error, UsageError) else 1), str(error)
        if not isinstance(error, BlendbenchError):
            first = (text.strip().splitlines() or [""])[0]
            text = f"unexpected {type(error).__name__}: {first} (add --debug for the traceback)"
    print("blendbench: " + shown(" ".join(text.split())), file=sys.stderr)
    return status


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": _run,
        "blend": _blend,
        "status": _status,
        "table": _table,
        "report": _report,
        "listen": _listen,
        "push": _push,
        "data": _data,
        "models": _models,
        "doctor": _doctor,
        "train": _train,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in commands:
        raise UsageError(f"no command {arguments[0]!r}; there are {', '.join(commands)}")
    # These two have stages of their own, and a server is at nothing while nobody asks.
    named = nullcontext() if arguments[0] in ("run", "listen") else telling.stage(arguments[0], bar=False)
    with named:
        return commands[arguments[0]](arguments[1:])


def compose(overrides: list[str]) -> dict:
    """Compose and check the configuration; a wrong key or value is one line.

    Raises
    ------
    UsageError
        Naming the key, what is wrong, and what there is.
    """
    from hydra import initialize_config_module

    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"{word!r} is not key=value; see `blendbench run --help`")
    with initialize_config_module("blendbench.conf", version_base="1.3"):
        return _compose_here(overrides)


def _compose_here(overrides: list[str]) -> dict:
    """As `compose`, with the config folders of the Hydra that runs."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        composed = hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(error)) from error
    return _checked(composed)


def _checked(composed: Any) -> dict:
    from blendbench import config

    try:
        return config.check(composed)
    except BlendbenchError as error:
        raise UsageError(str(error)) from error


def _explain(error: Exception) -> str:
    """One line out of Hydra's message: the override that it is about, its first sentence, and the options it lists."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".:")
    if (override := getattr(error, "override", None)) and override not in text:
        text = f"{override!r}: {text}"
    cause = str(error.__cause__).splitlines()[0].strip() if error.__cause__ is not None else ""
    if cause and cause not in text:
        text += f" ({cause})"
    if "Available options" in str(error):
        start = next(i for i, line in enumerate(lines) if line.startswith("Available options"))
        end = next((i for i, line in enumerate(lines) if line.startswith("Config search path")), len(lines))
        text += f"; there are {', '.join(lines[start + 1 : end])}"
    elif "Could not find 'experiment" in text:
        from blendbench.datasets.builtin import package_folder

        folder = package_folder("blendbench.conf") / "experiment"
        names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("*/*.yaml"))
        text += f"; there are {', '.join(names)}"
    return f"{text}; see `blendbench run --help`"


_HYDRA_FLAGS = {
    "-m", "--multirun", "--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i", "--resolve", "--package", "-p",
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--shell-completion", "-sc", "--run", "-r",
}  # fmt: skip


def _run(arguments: list[str]) -> int:
    arguments = ["retry_failed=true" if word == "--retry-failed" else word for word in arguments]
    if any(word.split("=")[0] in _HYDRA_FLAGS for word in arguments):
        return _hydra(arguments)
    return _start(arguments, compose(arguments), compose)


def _start(words: list[str], settings: dict, compose: Callable[[list[str]], dict]) -> int:
    """Run an experiment, or, if it sweeps by itself, a run a combination, then one table and plot."""
    if not _sweeps(settings):
        return _run_settings(settings) or 0
    from blendbench import config, sweeps

    jobs = sweeps.plan(words, settings, compose)
    ends = []
    for number, one in enumerate(jobs, start=1):
        print(shown(f"[{number} of {len(jobs)}] " + ", ".join(f"{key}={value}" for key, value in one.values.items())))
        _group(one.settings, settings["experiment"]["name"], words)
        ends.append(_end(one.settings))
        if ends[-1].status == _STOPPED:
            return _STOPPED
    if not any(end.left for end in ends):
        done = [one for one, end in zip(jobs, ends, strict=True) if end.done]
        _summarise(config.run_dir_of(settings), done, len(jobs))
    elif not settings["dry_run"]:
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

    status = _guard(job)
    return _End(status, bool(found) and found[0] is not None, bool(found) and found[0] is None)


_LEFT = "the jobs were left to the executor; the same command makes their table when they are done"


def _sweeps(settings: dict) -> bool:
    return bool(settings["experiment"] and settings["experiment"].get("sweep"))


def _group(settings: dict, name: str, words: list[str]) -> None:
    """Put the runs of a sweep, which is called after an experiment, into one group on W&B."""
    from blendbench import tracking

    tracker = settings["tracker"]
    settings["tracker"] = {**tracker, "group": tracker["group"] or tracking.sweep_group(name, words)}


def _summarise(folder: Path, jobs: Sequence[Any], of: int) -> None:
    """Write and print the table of the jobs that have results; none has where each has said why."""
    if not jobs:
        return
    from blendbench import sweeps

    sweeps.summarise(folder, jobs, of)
    print("\n" + (folder / "table.md").read_text(encoding="utf-8"))
    print(f"sweep  {folder / 'sweep.csv'}\nplot   {folder / 'figures' / 'sweep.png'}")


def quiet() -> None:
    """Keep the libraries' own progress bars out of ours."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _run_settings(settings: dict) -> int | None:
    """Run an experiment and print its table; one that is finished is printed at once.

    Returns the exit status, or None after a dry run and where an executor does not wait.
    """
    from blendbench import config, finished

    if settings["experiment"] and not (settings["dry_run"] or settings["retry_failed"]):
        run_dir = config.run_dir_of(settings)
        if finished.is_finished(settings, run_dir):
            print(f"{run_dir} is finished; nothing is to be done")
            return _print_run(run_dir, settings)
    with telling.stage("start", bar=False, kind="start"):
        from blendbench import progress, runner

        quiet()
    done = runner.run(settings)
    if done is None:
        return None
    status = _print_run(done, settings)
    print(progress.took(done, telling.accounts()))
    telling.restart()
    return status


def _print_run(run_dir: Path, settings: dict) -> int:
    from blendbench.store import PAIR_KEY, Ledger

    print("\n" + (run_dir / "table.md").read_text(encoding="utf-8"))
    page = f"report {run_dir / 'report' / 'index.html'}\n" if settings["report"] else ""
    print(f"audio  {run_dir / 'mixes'}\n{page}table  {run_dir / 'table.md'}")
    rows = Ledger(run_dir / "pairs.jsonl", PAIR_KEY)
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

    from blendbench.store import Ledger

    @hydra.main(version_base="1.3", config_path="pkg://blendbench.conf", config_name="config")
    def task(composed: DictConfig) -> int:
        # Imported by name, as a launcher may call this in another process.
        from blendbench.cli import hydra_job

        return hydra_job(composed, arguments)

    sweep = bool({"-m", "--multirun"} & set(arguments))
    words = _in_hydras_order(arguments)
    if sweep:
        from blendbench import sweeps

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
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_explain(error)) from error
        except _Stop:
            return _STOPPED
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
    from blendbench.store import Ledger

    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    number = hydra.job.num if hydra.mode == RunMode.MULTIRUN else 0
    record: dict[str, Any] = {"number": number, "words": words, "asked": None, "settings": None}
    end = _End(0, False, False)

    def job() -> int:
        nonlocal end
        settings = _checked(composed)
        if hydra.mode != RunMode.MULTIRUN:
            return _start(words, settings, _compose_here)
        from blendbench import sweeps

        if _sweeps(settings):
            name = settings["experiment"]["name"]
            raise UsageError(f"experiment={name} sweeps by itself; leave -m out, or set experiment.sweep=null")
        if settings["experiment"]:
            several = "experiment" in sweeps.swept_keys(arguments)
            _group(settings, "sweep" if several else settings["experiment"]["name"], arguments)
        settings["report"] = False  # `blendbench report` makes it for the job that one wants to hear
        asked = record["asked"] = settings["run_dir"]
        if asked:
            # Every job of a sweep has its own folder below the one asked for.
            settings["run_dir"] = str(Path(asked) / config.digest(settings))
        record["settings"] = settings
        end = _end(settings)
        return end.status

    # Caught here, or Hydra would print its own account of it first.
    status = _guard(job)
    ledger = Ledger(Path(os.environ[_JOBS]), ("number",))
    ledger.append(record | end._asdict() | {"status": status})
    ledger.close()
    if status == _STOPPED:
        raise _Stop  # Hydra would begin the next job
    return status


class _Stop(BaseException):
    """The user, or the machine, wants the sweep to end."""


def _summarise_hydras(jobs: list[dict[str, Any]], arguments: list[str]) -> None:
    """One table and plot over the keys that a Hydra sweep varied."""
    from blendbench import sweeps, tracking

    if any(job["left"] for job in jobs):
        if not all(job["settings"]["dry_run"] for job in jobs if job["left"]):
            print(_LEFT)
        return
    values = sweeps.swept_values([job["words"] for job in jobs], sweeps.swept_keys(arguments))
    done = [(one, job) for one, job in zip(values, jobs, strict=True) if job["done"]]
    if not done or not values[0]:
        return  # nothing was varied, or every job has said why it has no results
    first = done[0][1]
    name = tracking.sweep_group(first["settings"]["experiment"]["name"], arguments)
    folder = Path(first["asked"] or Path("runs", "sweeps", name))
    _summarise(folder, [sweeps.Job(one, job["settings"]) for one, job in done], len(jobs))


def _blend(arguments: list[str]) -> int:
    parser = _Parser(
        prog="blendbench blend", description="Make music that hides one noise when both are heard together."
    )
    parser.add_argument("noise", type=Path, help="audio file; its first five seconds are used, a shorter one repeats")
    parser.add_argument("--prompt", required=True, help="what music, in words")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for music.wav, mix.wav, noise.wav and blend.json"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    settings = compose(words.overrides)
    from blendbench import blend

    quiet()
    facts = blend.blend(words.noise, words.prompt, words.out, settings)
    gain = "silent" if facts["gain_db"] is None else f"{facts['gain_db']:+.1f} dB"
    levels = f"music at {facts['music_lufs']} LUFS ({gain}) over noise at {facts['noise_lufs']} LUFS"
    print(f"{levels}: {words.out / 'mix.wav'}")
    return 0


def _run_dir(name: str, arguments: list[str], text: str) -> tuple[Path, dict]:
    """The run's folder and its settings; modules that its config wants to call must be allowed again, by the caller."""
    parser = _Parser(prog=f"blendbench {name}", description=text)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--allow-targets", nargs="+", default=[], metavar="MODULE", help="own modules the run used")
    words = parser.parse_args(arguments)
    from blendbench import results

    return words.run_dir, results.read_settings(words.run_dir) | {"allow_targets": words.allow_targets}


def _status(arguments: list[str]) -> int:
    parser = _Parser(prog="blendbench status", description="How far a run is, over all its workers.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    words = parser.parse_args(arguments)
    from blendbench import progress

    print(progress.text(progress.read(words.run_dir)))
    return 0


def _table(arguments: list[str]) -> int:
    run_dir, settings = _run_dir("table", arguments, "Rebuild results.csv and the tables from a run's rows and mixes.")
    from blendbench import progress, results

    results.tabulate(run_dir, settings)
    if (run_dir / "plan.json").is_file() and (left := progress.read(run_dir).left):
        print(f"blendbench: {left} rows of the run are not there yet; the table is of the others", file=sys.stderr)
    print((run_dir / "table.md").read_text(encoding="utf-8"))
    return 0


def _report(arguments: list[str]) -> int:
    run_dir, settings = _run_dir("report", arguments, "Rebuild a run's report page.")
    from blendbench import report

    print(report.write(run_dir, settings))
    return 0


def _composer(overrides: list[str]) -> Callable[[list[str]], dict]:
    """Composes the configuration of further overrides."""
    return lambda words: compose([*words, *overrides])


def _push(arguments: list[str]) -> int:
    parser = _Parser(prog="blendbench push", description="Mirror a finished run to Weights & Biases, again if need be.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--project", help="W&B project; the run's own if left out")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--mode", choices=["auto", "offline", "online"], help="auto: online if you are logged in")
    words = parser.parse_args(arguments)
    from blendbench import results, tracking

    settings = results.read_settings(words.run_dir)
    given = {name: value for name in ("project", "entity", "mode") if (value := getattr(words, name))}
    print(tracking.push(words.run_dir, settings | {"tracker": settings["tracker"] | given}))
    return 0


def _data(arguments: list[str]) -> int:
    parser = _Parser(
        prog="blendbench data",
        description="Which data sets are there and what they lack, class by class; downloads; manifests.",
    )
    parser.add_argument("action", choices=["check", "fetch", "manifest"])
    parser.add_argument("words", nargs="*", metavar="NAME or key=value", help="such as esc50, or data.root=DIR")
    parser.add_argument("--out", type=Path, help="file of the manifest; NAME.manifest.json if left out")
    given = parser.parse_intermixed_args(arguments)
    names = [word for word in given.words if "=" not in word]
    overrides = [word for word in given.words if "=" in word]
    from blendbench import doctor
    from blendbench.datasets import fetch, inventory, manifests

    sets = fetch.SOURCES if given.action == "fetch" else inventory.known()
    unknown = [name for name in names if name not in sets]
    if unknown or (given.action != "check" and not names):
        problem = f"no data set {unknown[0]!r}" if unknown else f"{given.action}: give the name of a data set"
        raise UsageError(f"{problem}; there are {', '.join(sets)}")
    composer = _composer(overrides)
    if given.action == "check":
        return doctor.print_checks(doctor.check_data(composer, names))
    if given.out and len(names) > 1:
        raise UsageError("--out: takes one data set; write the manifests one by one")
    for name in names:
        if given.action == "fetch":
            fetch.fetch(name, Path(composer([])["data"]["root"]))
        else:
            file = given.out or Path(f"{name.replace('/', '_')}.manifest.json")
            manifest = inventory.manifest(composer, name, file.stem.removesuffix(".manifest"))
            manifests.write(manifest, file)
            known = sum("digest" in row for row in manifest.clips)
            print(f"{file}: {len(manifest.clips)} clips, the content of {known} of them")
    return 0


def _models(arguments: list[str]) -> int:
    parser = _Parser(
        prog="blendbench models", description="Which models there are, whether they are whole, and downloads of them."
    )
    parser.add_argument("action", choices=["list", "check", "fetch"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of those that `list` prints; all if left out")
    words = parser.parse_args(arguments)
    from blendbench import doctor, models

    unknown = [name for name in words.names if name not in models.MODELS]
    if unknown or (words.action == "fetch" and not words.names):
        problem = f"no model {unknown[0]!r}" if unknown else "fetch: give the name of a model"
        raise UsageError(f"{problem}; there are {', '.join(models.MODELS)}")
    if words.action == "fetch":
        for name in words.names:
            models.fetch(name)
        return 0
    status = doctor.print_checks(models.checks(words.names, verify=words.action == "check"))
    return status if words.action == "check" else 0


def _doctor(arguments: list[str]) -> int:
    parser = _Parser(
        prog="blendbench doctor", description="What this machine has, and what to do about what is missing."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=DIR")
    words = parser.parse_args(arguments)
    from blendbench import doctor

    doctor.print_checks(doctor.check_all(_composer(words.overrides)))
    return 0


def _listen(arguments: list[str]) -> int:
    from blendbench.listening import command

    return command.main(arguments, _Parser)


def _train(arguments: list[str]) -> int:
    from blendbench.train import command

    return command.main(arguments, _Parser)
