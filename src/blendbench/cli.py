"""The command line. Heavy libraries are imported inside commands, so that help answers at once.

Exit status: 0 done, 1 failed, 2 wrong usage. A failure is one line on stderr; `--debug` adds the traceback.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from blendbench import __version__, telling
from blendbench.composing import compose, composer_of
from blendbench.errors import UsageError
from blendbench.guard import DEBUG, guarded
from blendbench.resources import quiet
from blendbench.sweeping import run
from blendbench.usage import Parser

USAGE = f"""blendbench {__version__}: blend environmental noise into music

  blendbench run experiment=bnmusic/table1 [key=value ...]    run an experiment and print its table
  blendbench blend NOISE --prompt TEXT --out DIR [key=value ...]   make music that hides one noise
  blendbench live --prompt TEXT --from NOISE|- --to FILE|-    music that hides a noise while it sounds
  blendbench suggest NOISE      which prompts hide this noise best, and why
  blendbench accompany FILE     add a part, as a text says, to music of your own
  blendbench soundtrack IMAGE   music for a picture, as a text says
  blendbench inpaint FILE       fill gaps of some seconds in a recording
  blendbench compose --out DIR  a long piece from nothing, from a recording (--from), or going on (--continue)
  blendbench status RUN_DIR     how far a run is, over all its workers
  blendbench table RUN_DIR      rebuild the tables from a run's rows
  blendbench report RUN_DIR     rebuild the report page of a run
  blendbench listen RUN_DIR     let people rate a run's mixes on a web page of this machine; `listen analyse` etc.
  blendbench push RUN_DIR       mirror a run to Weights & Biases
  blendbench data check|fetch|manifest [NAME ...]  which data sets are there; download; write down what is there
  blendbench models list|check|fetch [NAME ...]   which models are there and whole; download those that are not
  blendbench models add NAME PATH|HUB_ID --as KIND  a checkpoint of your own by name, pickled weights converted
  blendbench list [KIND ...]    all methods, metrics, data sets, ... that there are, and whether what they need is here
  blendbench doctor             what this machine has, and what to do about what is missing
  blendbench train ...          train the built-in models again

run also takes Hydra's flags: -m (sweep), --cfg job (print the config), --help (all keys and groups).
--retry-failed does again what failed before. executor=local|slurm fans out; dry_run=true prints the plan alone.
Any command takes --debug to show a traceback on failure, and --quiet to say nothing while it works.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `blendbench` program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet = "--quiet" in arguments
    if "--debug" in arguments:
        os.environ[DEBUG] = "1"  # also for the jobs of a sweep, in whatever process
    arguments = [word for word in arguments if word not in ("--debug", "--quiet")]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has not all characters is no failure
    # Torch's threads would spin while they wait for each other, and on a machine that others use, too, that takes ten
    # times as long. Read as torch is loaded; processes begun from here take it over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with telling.aloud(quiet):
            status = guarded(lambda: _dispatch(arguments))
        sys.exit(status)
    finally:
        os.environ.pop(DEBUG, None)


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": run,
        "blend": _blend,
        "status": _status,
        "table": _table,
        "report": _report,
        "listen": _listen,
        "push": _push,
        "data": _data,
        "models": _models,
        "suggest": _suggest,
        "accompany": _accompany,
        "soundtrack": _soundtrack,
        "inpaint": _inpaint,
        "compose": _compose,
        "live": _live,
        "doctor": _doctor,
        "list": _list,
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


def _blend(arguments: list[str]) -> int:
    parser = Parser(
        prog="blendbench blend", description="Make music that hides one noise when both are heard together."
    )
    parser.add_argument("noise", type=Path, help="audio file; noise.seconds=5 takes its first five seconds alone")
    parser.add_argument("--prompt", required=True, help="what music, in words")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for music.wav, mix.wav, noise.wav and blend.json"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    settings = compose(["noise.seconds=null", *words.overrides])
    from blendbench import blend

    quiet()
    facts = blend.blend(words.noise, words.prompt, words.out, settings)
    gain = "silent" if facts["gain_db"] is None else f"{facts['gain_db']:+.1f} dB"
    levels = f"music at {facts['music_lufs']} LUFS ({gain}) over noise at {facts['noise_lufs']} LUFS"
    print(f"{levels}: {words.out / 'mix.wav'}")
    if facts.get("stopped"):
        made, whole = (telling.clock(facts[name]) for name in ("made_seconds", "noise_seconds"))
        print(f"blendbench: stopped at {made} of {whole}, which is written; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _live(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench live", description="Play music that hides a noise while it sounds.")
    parser.add_argument("--prompt", required=True, help="what music, in words")
    parser.add_argument(
        "--from", dest="source", default="-", metavar="FILE|-|device[:NAME]",
        help="a file at its speed, standard input (WAV, or raw samples), or a sound device (needs sounddevice)",
    )  # fmt: skip
    parser.add_argument("--to", dest="target", default="-", metavar="FILE|-|device[:NAME]", help="likewise, for output")
    parser.add_argument("--emit", choices=("mix", "music"), help="noise and music, or music (for a device: music)")
    parser.add_argument("--rate", type=int, default=44_100, help="of raw samples that come in, in Hz (44100 go out)")
    parser.add_argument("--channels", type=int, default=1, help="of raw samples that come in")
    parser.add_argument("--format", default="s16le", help="of raw samples: s16le, s32le or f32le")
    parser.add_argument("--free", action="store_true", help="wait for music instead of keeping time with the source")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    from blendbench.live.command import Wanted, live
    from blendbench.live.streams import Format

    emit = words.emit or ("music" if words.target.startswith("device") else "mix")
    stream = Format(words.rate, words.channels, words.format)
    settings = compose(["generator=pocket_fast", *words.overrides])
    quiet()
    wanted = Wanted(words.source, words.target, emit, stream, words.free)
    print(live(words.prompt, wanted, settings), file=sys.stderr)
    return 0


def _suggest(arguments: list[str]) -> int:
    parser = Parser(
        prog="blendbench suggest",
        description="Rank prompts by how well a quick blend of each hides a noise.",
    )
    parser.add_argument("noise", type=Path, help="audio file, of which the first five seconds count")
    parser.add_argument("--top", type=int, default=5, help="how many to tell, with reasons (default: 5)")
    parser.add_argument("--seeds", type=int, default=1, help="paintings a prompt (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    if words.top < 1 or words.seeds < 1:
        raise UsageError("--top and --seeds: give whole numbers from 1 up")
    from blendbench import suggest

    settings = compose([*suggest.CHEAP, *words.overrides])
    quiet()
    print(suggest.suggest(words.noise, settings, words.top, words.seeds))
    return 0


def _accompany(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench accompany", description="Add a part to music of your own, as a text says.")
    parser.add_argument("background", type=Path, help="audio file; accompaniment.seconds=5.11 takes its beginning")
    parser.add_argument("--prompt", required=True, help="what to add, in words: 'add a soft female voice'")
    parser.add_argument(
        "--method", default="riff_cnet", metavar="NAME", help="riff_cnet (the default), riff_p2p or riffusion_edges"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for mix.wav, added.wav, over.wav, background.wav"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    own = ["task=accompaniment", f"method={words.method}", "accompaniment.seconds=null"]
    settings = compose([*own, *words.overrides])
    from blendbench import accompany

    quiet()
    facts = accompany.accompany(words.background, words.prompt, words.out, settings)
    spent = sum(facts["seconds"].values())
    print(f"made in {spent:.1f} s: {words.out / 'mix.wav'}; the new part over your recording: {words.out / 'over.wav'}")
    return 0


def _soundtrack(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench soundtrack", description="Make music for a picture of your own, as a text says.")
    parser.add_argument("image", type=Path, help="PNG, JPEG, WebP, GIF, BMP or TIFF")
    parser.add_argument("--prompt", required=True, help="what music to make: 'calm jazz piano trio'")
    parser.add_argument("--seconds", type=float, metavar="S", help="how much of it (5.11)")
    parser.add_argument("--method", default="melfusion", metavar="NAME", help="melfusion (the default) or tangopp")
    parser.add_argument("--out", required=True, type=Path, help="folder for music.wav, picture.png, soundtrack.json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    length = [] if words.seconds is None else [f"scene.seconds={words.seconds}"]
    settings = compose(["task=image_text", f"method={words.method}", *length, *words.overrides])
    from blendbench import soundtrack

    quiet()
    facts = soundtrack.soundtrack(words.image, words.prompt, words.out, settings)
    print(f"made in {sum(facts['seconds'].values()):.1f} s: {words.out / 'music.wav'}")
    return 0


def _inpaint(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench inpaint", description="Fill gaps of some seconds in a recording.")
    parser.add_argument("file", type=Path, help="audio file, of any rate and number of channels")
    parser.add_argument(
        "--gap", nargs=2, type=float, action="append", default=[], metavar=("START", "STOP"),
        help="where a gap is, in seconds; again for each further one",
    )  # fmt: skip
    parser.add_argument(
        "--method", default="simdps", metavar="NAME", help="lpc, sim, dps, simdps_l (simdps, the default), simdps_h"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the repaired file, parts and inpaint.json")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="further recordings to take a guide from")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    name = "simdps_l" if words.method == "simdps" else words.method
    settings = compose(["task=long_gap", f"method={name}", *words.overrides])
    from blendbench import inpaint

    quiet()
    facts = inpaint.inpaint(words.file, words.gap, words.out, settings, words.corpus)
    for gap in facts["gaps"]:
        guide = gap.get("guide")
        told = f", guide from {guide['start']:.2f} s of {guide['file']}" if guide else ""
        print(f"{gap['start']:g} to {gap['stop']:g} s: filled in {gap['seconds']:.1f} s{told}")
    if facts["clipped_samples"]:
        print(f"blendbench: {facts['clipped_samples']} samples of the fills were clipped", file=sys.stderr)
    print(words.out / facts["file"])
    if facts["left"]:
        print(f"blendbench: stopped; {facts['left']} gaps are as they were", file=sys.stderr)
        return 130
    return 0


def _compose(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench compose", description="Make a long piece, change one, or go on with one (Msanii).")
    parser.add_argument("--seconds", type=float, help="of a new piece (default: 60), or of what goes on")
    begins = parser.add_mutually_exclusive_group()
    begins.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a recording that is changed")
    begins.add_argument("--continue", dest="goes_on", type=Path, metavar="FILE", help="a recording that goes on")
    parser.add_argument("--strength", type=int, metavar="T", help="how much it is changed: 0 to 1000 (default: 500)")
    parser.add_argument("--out", required=True, type=Path, help="folder for music.wav, images and compose.json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, as for `blendbench run`")
    words = parser.parse_intermixed_args(arguments)
    from blendbench import piece

    wanted = piece.Wanted(words.seconds, words.source or words.goes_on, words.goes_on is not None)
    settings = compose(["task=long_form", *piece.words(wanted, words.strength), *words.overrides])
    quiet()
    try:
        facts = piece.compose(wanted, words.out, settings)
    except KeyboardInterrupt:
        print("blendbench: stopped; the same command goes on", file=sys.stderr)
        return 130
    flag = ", longer than what the model has learnt from" if facts.get("beyond_training") else ""
    print(f"{facts['seconds']:g} s of music in {facts['took_s']:.1f} s{flag}: {words.out / 'music.wav'}")
    return 0


def _run_of(name: str, arguments: list[str], text: str) -> Any:
    """The run of a folder; modules that its config wants to call must be allowed again, by the caller."""
    parser = Parser(prog=f"blendbench {name}", description=text)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--allow-targets", nargs="+", default=[], metavar="MODULE", help="own modules the run used")
    words = parser.parse_args(arguments)
    from blendbench.runs.folder import Run

    return Run.open(words.run_dir, allow_targets=words.allow_targets)


def _status(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench status", description="How far a run is, over all its workers.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    words = parser.parse_args(arguments)
    from blendbench.runs import progress

    print(progress.text(progress.read(words.run_dir)))
    return 0


def _table(arguments: list[str]) -> int:
    run = _run_of("table", arguments, "Rebuild results.csv and the tables from a run's rows and sounds.")
    from blendbench import session
    from blendbench.runs import progress

    session.tabulate(run)
    if (run.dir / "plan.json").is_file() and (left := progress.read(run.dir).left):
        print(f"blendbench: {left} rows of the run are not there yet; the table is of the others", file=sys.stderr)
    print((run.dir / "table.md").read_text(encoding="utf-8"))
    return 0


def _report(arguments: list[str]) -> int:
    run = _run_of("report", arguments, "Rebuild a run's report page.")
    from blendbench.reports import page

    print(page.write(run))
    return 0


def _push(arguments: list[str]) -> int:
    parser = Parser(prog="blendbench push", description="Mirror a finished run to Weights & Biases, again if need be.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--project", help="W&B project; the run's own if left out")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--mode", choices=["auto", "offline", "online"], help="auto: online if you are logged in")
    words = parser.parse_args(arguments)
    from blendbench.runs.folder import read_settings
    from blendbench.trackers import wandb

    settings = read_settings(words.run_dir)
    given = {name: value for name in ("project", "entity", "mode") if (value := getattr(words, name))}
    print(wandb.push(words.run_dir, settings | {"tracker": settings["tracker"] | given}))
    return 0


def _data(arguments: list[str]) -> int:
    parser = Parser(
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
    from blendbench.checks import print_checks
    from blendbench.datasets import fetch, inventory, manifests

    sets = list(fetch.sources() if given.action == "fetch" else inventory.known())
    unknown = [name for name in names if name not in sets]
    if unknown or (given.action != "check" and not names):
        problem = f"no data set {unknown[0]!r}" if unknown else f"{given.action}: give the name of a data set"
        raise UsageError(f"{problem}; there are {', '.join(sets)}")
    composer = composer_of(overrides)
    if given.action == "check":
        return print_checks(doctor.check_data(composer, names))
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
    parser = Parser(
        prog="blendbench models", description="Which models there are, whether they are whole, and downloads of them."
    )
    parser.add_argument("action", choices=["list", "check", "fetch", "add"])
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="which of those that `list` prints; all if left out. After add: NAME and PATH or HUB_ID",
    )  # fmt: skip
    parser.add_argument("--as", dest="kind", help="what an added model is: riffusion, musicgen, clap, encodec, prior")
    words = parser.parse_args(arguments)
    if (words.action == "add") != (words.kind is not None):
        raise UsageError("add and --as belong together: `blendbench models add NAME PATH --as riffusion`")
    if words.action == "add":
        from blendbench.models import adding

        if len(words.names) != 2:
            raise UsageError("add: give a name and a path or hub id: `blendbench models add NAME PATH --as riffusion`")
        name, source = words.names
        adding.add(name, source, words.kind)
        return 0
    from blendbench.checks import print_checks
    from blendbench.models import catalog, fetch

    unknown = [name for name in words.names if name not in catalog.models()]
    if unknown or (words.action == "fetch" and not words.names):
        problem = f"no model {unknown[0]!r}" if unknown else "fetch: give the name of a model"
        raise UsageError(f"{problem}; there are {', '.join(catalog.models())}")
    if words.action == "fetch":
        for name in words.names:
            fetch.fetch(name)
        return 0
    status = print_checks(fetch.checks(words.names, verify=words.action == "check"))
    return status if words.action == "check" else 0


def _doctor(arguments: list[str]) -> int:
    parser = Parser(
        prog="blendbench doctor", description="What this machine has, and what to do about what is missing."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=DIR")
    words = parser.parse_args(arguments)
    from blendbench import doctor
    from blendbench.checks import print_checks

    print_checks(doctor.check_all(composer_of(words.overrides)))
    return 0


def _listen(arguments: list[str]) -> int:
    from blendbench.listening import command

    return command.main(arguments)


def _list(arguments: list[str]) -> int:
    from blendbench import listed

    return listed.main(arguments)


def _train(arguments: list[str]) -> int:
    from blendbench.train import command

    return command.main(arguments)
