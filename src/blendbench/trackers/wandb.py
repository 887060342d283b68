"""The mirror of a finished run at Weights & Biases, rebuilt from the run's folder at any time under the same run id.

Local files are the truth. A child process does the work, so that W&B's threads, environment and crashes stay out of the
run, and so that it can be ended when it takes too long. All that W&B writes lies in `RUN_DIR/wandb`: the run itself
(`offline-run-TIME-ID` or `run-TIME-ID`) and `files-ID-*`, the copies that an offline run has still to upload.
"""

import configparser
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from blendbench.checks import Check
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.store.signature import signature
from blendbench.store.write import make_folder
from blendbench.trackers.settings import TrackerConfig, check


class _Sent(NamedTuple):
    """Where a mirror went: the run's page, or the offline run's folder."""

    mode: str
    place: str


def mirror(run_dir: Path, settings: dict[str, Any], *, group: str = "") -> str | None:
    """Mirror a finished run to W&B as one run, and say where: its page, or the offline run's folder.

    One run holds the settings, the tables of `tables`, the figures of `RUN_DIR/figures`, and the values of `summary`.
    Never raises, and waits `tracker.limit_s` seconds at the most (`tracker.timeout_s` for the start): what goes wrong
    is one line on stderr.

    Parameters
    ----------
    run_dir : Path
        A finished run's folder.
    settings : dict
        The run's resolved settings; `settings["tracker"]` as `TrackerConfig` has it.
    group : str
        Stands in for `tracker.group`.

    Returns
    -------
    str or None
        None if tracking is disabled, or failed.
    """
    try:
        tracker = check(settings)
        mode = _mode(tracker.mode)
        if mode == "disabled":
            return None
        return _send(run_dir, settings, replace(tracker, mode=mode, group=group or tracker.group)).place
    except BlendbenchError as error:
        text = str(error)
    except Exception as error:
        text = f"{printable(run_dir)}: not mirrored to W&B: {type(error).__name__}: {error}"
    print(f"blendbench: {one_line(text)}", file=sys.stderr)
    return None


def push(run_dir: Path, settings: dict[str, Any]) -> str:
    """As `mirror`, asked for by name: `tracker.mode=disabled` counts as "auto". Returns the lines to print.

    Raises
    ------
    BlendbenchError
        If the folder is no finished run's, cannot be written, or W&B is missing, unreachable, or too slow.
    """
    tracker = check(settings)
    mode = _mode("auto" if tracker.mode == "disabled" else tracker.mode)
    if mode == "disabled":
        raise BlendbenchError("WANDB_MODE=disabled: nothing is sent; unset it, or set tracker.mode=offline")
    sent = _send(run_dir, settings, replace(tracker, mode=mode))
    if sent.mode == "online":
        return sent.place
    return f"{sent.place}\nnot uploaded; to do so, log in and type: wandb sync {shlex.quote(sent.place)}"


def run_id(run_dir: Path) -> str:
    """W&B's id of a run's folder, of its name and its `config.yaml`; where the folder lies does not count.

    Raises
    ------
    BlendbenchError
        If the folder has no sound `config.yaml`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from blendbench import config

    # The file as it was written: later versions fill in keys that would change the id of an old run.
    file = run_dir / "config.yaml"
    try:
        written = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError):
        raise BlendbenchError(
            f"{printable(run_dir)}: no sound config.yaml here; give the folder that `blendbench run` printed"
        ) from None
    if not isinstance(written, dict):
        raise BlendbenchError(f"{printable(file)}: not a run's settings; run the same command again")
    counted = {str(name): value for name, value in written.items() if name != "tracker"}
    return signature("mirror", 1, {"name": run_dir.resolve().name, "settings": config.digest(counted)})


def sweep_group(experiment: str, words: Sequence[str]) -> str:
    """Group of a sweep's runs: the experiment and a hash of the command's words, so that it is found again."""
    return f"{experiment.replace('/', '-')}-{signature('sweep', 1, {'words': list(words)})[:8]}"


def _mode(asked: str) -> str:
    """The mode taken: "auto" becomes another, by WANDB_MODE and whether a log-in is at hand."""
    if asked != "auto":
        return asked
    wanted = os.environ.get("WANDB_MODE") or "online"
    if wanted != "online":
        return "disabled" if wanted == "disabled" else "offline"
    return "online" if check_login().sound else "offline"


def _send(run_dir: Path, settings: dict[str, Any], tracker: TrackerConfig) -> _Sent:
    """Start the child process, wait for it, and put `RUN_DIR/wandb` in order."""
    where, identifier = printable(run_dir), run_id(run_dir)
    if not (run_dir / "pairs.jsonl").is_file():
        raise BlendbenchError(f"{where}: no pairs.jsonl here; give the folder that `blendbench run` printed")
    for name in ("results.csv", "table.csv"):
        if not (run_dir / name).is_file():
            raise BlendbenchError(f"{where}: no {name} here; run `blendbench table {where}` first")
    folder = (run_dir / "wandb").resolve()
    make_folder(folder)
    before = _own(folder, identifier)
    order = {
        "run_dir": str(run_dir.resolve()),
        "id": identifier,
        "settings": {name: value for name, value in settings.items() if name != "tracker"},
        "tracker": asdict(tracker),
    }
    try:
        files = Path(tempfile.mkdtemp(prefix=f"files-{identifier}-", dir=folder))
        answer = _ask(order, _environment(folder.parent, files), tracker)
    except BaseException as error:
        _remove(path for path in _own(folder, identifier) if path not in before)
        if not isinstance(error, BlendbenchError | OSError):
            raise
        again = "" if isinstance(error, BlendbenchError) else f"; `blendbench push {where}` tries again"
        raise BlendbenchError(f"{where}: not mirrored to W&B: {error}{again}") from None
    # An older mirror would be a second copy of the same run.
    _remove(path for path in before if path != Path(answer["folder"]))
    _remove([files] if tracker.mode == "online" else [path for path in files.iterdir() if path.name != "data"])
    return _Sent(tracker.mode, answer["url"] if tracker.mode == "online" else answer["folder"])


def _own(folder: Path, identifier: str) -> list[Path]:
    """What earlier mirrors of this run left in its folder."""
    return [path for pattern in (f"*run-*-{identifier}", f"files-{identifier}-*") for path in folder.glob(pattern)]


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(order: dict[str, Any], environment: dict[str, str], tracker: TrackerConfig) -> dict[str, str]:
    """The child's answer: `folder` and `url` of the run; raises BlendbenchError if there is none in time."""
    again = f"`blendbench push {shlex.quote(order['run_dir'])}` tries again"
    command = [sys.executable, "-P", "-m", "blendbench.trackers.child"]
    # Files, not pipes: W&B's service outlives a child that is killed, and would hold them open.
    with tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as said:
        try:
            status = subprocess.run(
                command,
                input=json.dumps(order, default=str).encode(),
                stdout=answered,
                stderr=said,
                env=environment,
                timeout=tracker.limit_s,
            ).returncode
        except subprocess.TimeoutExpired:
            raise BlendbenchError(f"not done in {tracker.limit_s:g} s (tracker.limit_s); {again}") from None
        answered.seek(0)
        said.seek(0)
        try:
            answer = json.loads(answered.read())
        except ValueError:
            lines = said.read().decode(errors="replace").strip().splitlines()
            answer = {"error": f"ended with status {status}" + (f" ({one_line(lines[-1])})" if lines else "")}
    if status == -signal.SIGALRM:
        raise BlendbenchError(f"no start in {tracker.timeout_s:g} s (tracker.timeout_s); {again}")
    if "error" in answer:
        raise BlendbenchError(f"{answer['error']}; {answer.get('remedy') or again}")
    return answer


# What would make the mirror a part of another run.
_FOREIGN = {
    f"WANDB_{name}"
    for name in (
        "ARGS", "CONFIG_PATHS", "FORK_FROM", "MODE", "RESUME", "RESUME_FROM", "RUN_ID", "SERVICE", "SWEEP_ID",
        "SWEEP_PARAM_PATH",
    )
}  # fmt: skip


def _environment(run_dir: Path, files: Path) -> dict[str, str]:
    """The child's environment: W&B quiet, and its folders within the run's; no other run's name."""
    places = {"DATA": "data", "CACHE": "cache", "CONFIG": "config", "ARTIFACT": "artifacts"}
    for name in (*places.values(), "tmp"):
        (files / name).mkdir()
    off = ("DISABLE_GIT", "DISABLE_CODE", "SILENT", "X_DISABLE_META", "X_DISABLE_STATS")
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return (
        _home_settings()
        | kept
        | {f"WANDB_{name}_DIR": str(files / place) for name, place in places.items()}
        | {f"WANDB_{name}": "true" for name in off}
        | {f"WANDB_{name}": "false" for name in ("ERROR_REPORTING", "SYMLINK", "X_SAVE_REQUIREMENTS")}
        | {"WANDB_DIR": str(run_dir), "WANDB_CONSOLE": "off", "TMPDIR": str(files / "tmp")}
    )


def _home_settings() -> dict[str, str]:
    """Server and entity that `wandb login` wrote down; the folder it did so in is not the child's."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(folder.expanduser() / "settings", encoding="utf-8")
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
        return {}
    names = ("base_url", "entity")
    return {f"WANDB_{name.upper()}": parser["default"][name] for name in names if parser.has_option("default", name)}


def check_login() -> Check:
    """Whether a W&B log-in is at hand; never asks the network."""
    import netrc

    known = bool(os.environ.get("WANDB_API_KEY"))
    with suppress(OSError, netrc.NetrcParseError):
        known = known or netrc.netrc().authenticators("api.wandb.ai") is not None
    return Check(
        "wandb log-in", known, "logged in" if known else "not logged in", "`wandb login`; everything works without"
    )
