"""`blendbench listen`: plan a study, serve it, tell how far it is, and what came of it."""

import argparse
import csv
import io
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blendbench import telling
from blendbench.errors import BlendbenchError, UsageError, one_line
from blendbench.store.write import write_bytes, write_text
from blendbench.texts import csv_text
from blendbench.usage import Parser

TEXT = """Let people rate a run's mixes, on its task's scales or your own; in the blend task as for BNMusic's Table 2.

  blendbench listen RUN_DIR [--study FILE] [key=value ...]   plan a study, or go on with the one there, and serve it
  blendbench listen status RUN_DIR                           how far its listeners are
  blendbench listen analyse RUN_DIR [--answers FILE ...]     statistics; the scores join the run's tables
  blendbench listen export RUN_DIR FILE                      all ratings, as .csv or .json
  blendbench listen webmushra RUN_DIR DIR [--kind KIND]      the study for webMUSHRA, whose CSV --answers takes

A study's settings, with what each means, are the defaults in
"""
_SHOWN = 20
"""Links printed; the file holds all."""


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    verbs = {"status": _status, "analyse": _analyse, "export": _export, "webmushra": _webmushra}
    verb = verbs.get(arguments[0]) if arguments else None
    if verb is not None:
        return verb(arguments[1:])
    parser = Parser(
        prog="blendbench listen", description=TEXT + f"{Path(__file__).with_name('study.yaml')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--study", type=Path, metavar="FILE", help="settings of a new study, over the defaults")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8765, help="0 takes any that is free")
    parser.add_argument("--url", help="where listeners reach the server, such as https://lab.example.org/study")
    parser.add_argument("--invite", type=int, default=0, metavar="N", help="make so many further links")
    parser.add_argument("--plan", action="store_true", help="plan the study and print its links, but do not serve")
    # One each: more would take the words after them for modules.
    parser.add_argument("--allow-targets", action="append", default=[], metavar="MODULE", help="a module the run used")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of a new study")
    words = parser.parse_intermixed_args(arguments)
    _need("starlette", "uvicorn")
    from blendbench.listening import server
    from blendbench.listening.answers import Answers

    study = _planned(words)
    for clip in study.clips:
        if not study.clip_file(clip.name).is_file():
            raise BlendbenchError(f"{study.clip_file(clip.name)}: missing; put it back from a copy")
    answers = Answers(study)
    bound = None if words.plan else server.bind(words.host, words.port)
    port = words.port if bound is None else bound.getsockname()[1]
    host = f"[{words.host}]" if ":" in words.host else words.host
    url = (words.url or f"http://{host}:{port}").rstrip("/")
    samples, clips = len(study.of_kind("sample")), len(study.conditions)
    called = "clips" if study.hidden else "arms"
    print(f"{samples} samples x {clips} {called}, about {study.minutes} minutes a listener, in {study.folder}")
    links = _links(study, answers, url, words.invite)
    for number, link in list(links.items())[:_SHOWN]:
        print(f"{number:4}  {link}")
    print(f"links  {study.folder / 'links.csv'}")
    if bound is None:
        answers.close()
        return 0
    if words.host not in ("127.0.0.1", "::1", "localhost") and not url.startswith("https:"):
        print(
            "blendbench: links travel unencrypted; let a web server with TLS stand before this one, and give its "
            "address as --url",
            file=sys.stderr,
        )
    print(f"serving on http://{host}:{port}; Ctrl-C ends it, the same command goes on", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve(answers, bound)
    print(_told(answers))
    answers.close()
    return 0


def _parser(verb: str, text: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"blendbench listen {verb}", description=text)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    return parser


def _need(*modules: str) -> None:
    from importlib.util import find_spec

    lacking = [name for name in modules if find_spec(name) is None]
    if lacking:
        raise BlendbenchError(f"listen: {', '.join(lacking)} not installed; type: pip install 'blendbench[listen]'")


def _planned(words: argparse.Namespace) -> Any:
    """The run's study; planned now if there is none."""
    from blendbench.listening import settings, study

    found = study.read(words.run_dir)
    if found is not None:
        if words.study or words.overrides:
            raise BlendbenchError(
                f"{found.folder}: a study is there, and does not change; leave its settings out to go on with it, or "
                "move the folder away to plan another"
            )
        return found
    from blendbench.listening import planning
    from blendbench.runs.folder import Run

    run = Run.open(words.run_dir, allow_targets=words.allow_targets)
    try:
        asked = settings.read(run.task.study().settings, words.study, words.overrides)
    except BlendbenchError as error:
        raise UsageError(str(error)) from error
    with telling.stage("plan the study", bar=False):
        made, notes = planning.plan(run, asked)
    for note in notes:
        print(f"blendbench: {note}", file=sys.stderr)
    return made


def _links(study: Any, answers: Any, url: str, more: int) -> dict[int, str]:
    """Links by listener's number, kept in `links.csv`, which alone knows the tokens; those lacking are made."""
    file = study.folder / "links.csv"
    tokens: dict[int, str] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                number, token = int(row["listener"]), row["link"].rstrip("/").rpartition("/")[2]
                known = answers.listener(token)
                if known is None or known.number != number:
                    raise ValueError(f"{answers.path.name} does not know the link of listener {number}")
                tokens[number] = token
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise BlendbenchError(
            f"{file}: damaged ({one_line(str(error))}); put it back from a copy, or delete it and send new links"
        ) from None
    lacking = max(0, study.settings.listeners - len(tokens)) + max(0, more)
    if lacking:
        tokens |= answers.invite(lacking)
    links = {number: f"{url}/s/{token}/" for number, token in sorted(tokens.items())}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["listener", "link"], *links.items()])
    write_bytes(file, text.getvalue().encode(), private=True)
    return links


def _opened(run_dir: Path) -> Any:
    from blendbench.listening import study

    found = study.read(run_dir)
    if found is None:
        raise BlendbenchError(f"{run_dir}: no study here; plan one with `blendbench listen {run_dir}`")
    return found


def _told(answers: Any) -> str:
    """How far listeners are, in a line."""
    states = [one.state for one in answers.listeners()]
    counts = {
        "finished": "finished", "consented": "at it", "invited": "not begun",
        "refused": "failed the headphone check", "withdrawn": "withdrew",
    }  # fmt: skip
    told = [f"{states.count(state)} {text}" for state, text in counts.items() if state in states]
    return f"{len(states)} listeners: {', '.join(told)}"


def _status(arguments: list[str]) -> int:
    parser = _parser("status", "How far a study's listeners are.")
    study = _opened(parser.parse_args(arguments).run_dir)
    from blendbench.listening.answers import Answers

    answers = Answers(study)
    print(_told(answers))
    for listener in answers.listeners():
        at = answers.progress(listener)
        if listener.state == "consented":
            where = f"page {at.page + 1} of {len(answers.pages(listener.number))}" if at.step == "page" else at.step
            print(f"{listener.number:4}  {where}")
    answers.close()
    return 0


def _analyse(arguments: list[str]) -> int:
    parser = _parser("analyse", "Statistics of a study; its scores join the run's tables.")
    parser.add_argument(
        "--answers", type=Path, nargs="+", metavar="FILE", help="ratings from webMUSHRA's CSV files, not this server's"
    )
    parser.add_argument("--allow-targets", nargs="+", default=[], metavar="MODULE", help="own modules the run used")
    words = parser.parse_args(arguments)
    _need("krippendorff")
    study = _opened(words.run_dir)
    from blendbench import session
    from blendbench.listening import analysis, webmushra
    from blendbench.listening.answers import Answers
    from blendbench.runs.folder import Run

    if words.answers:
        ratings, headphones = webmushra.read_results(study, words.answers), {}
    else:
        answers = Answers(study)
        ratings, headphones = answers.export(), answers.headphones()
        answers.close()
    with telling.stage("analyse", bar=False):
        file = analysis.analyse(study, ratings, headphones, Run.open(words.run_dir))
        session.tabulate(Run.open(words.run_dir, allow_targets=words.allow_targets))
    print(file.read_text(encoding="utf-8"))
    print(f"analysis  {file.parent}\ntable     {words.run_dir / 'table.md'}")
    return 0


def _export(arguments: list[str]) -> int:
    parser = _parser("export", "All ratings of a study, without any name.")
    parser.add_argument("file", type=Path, metavar="FILE", help="ends in .csv or .json")
    words = parser.parse_args(arguments)
    if words.file.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{words.file}: unknown ending; use .csv or .json")
    study = _opened(words.run_dir)
    import json

    from blendbench.listening.answers import Answers

    answers = Answers(study)
    ratings, headphones = answers.export(), answers.headphones()
    if words.file.suffix.lower() == ".csv":
        write_text(words.file, csv_text(ratings))
    else:
        whole = {
            "study": {"title": study.settings.title, "presentation": study.presentation, "arms": study.conditions,
                      "scales": {name: scale.as_dict() for name, scale in study.scales.items()},
                      "range": [study.settings.range.low, study.settings.range.high],
                      "playback": asdict(study.settings.playback)},
            "listeners": [
                {"listener": one.number, "state": one.state, "headphones": headphones.get(one.number)}
                for one in answers.listeners()
            ],
            "ratings": json.loads(ratings.to_json(orient="records")),
        }  # fmt: skip
        write_text(words.file, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    answers.close()
    print(f"{len(ratings)} ratings: {words.file}")
    return 0


def _webmushra(arguments: list[str]) -> int:
    parser = _parser("webmushra", "Write a study for webMUSHRA.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="webMUSHRA's folder, or one to be copied there")
    parser.add_argument(
        "--kind", choices=["likert", "mushra"],
        help="buttons, or sliders from 0 to 100 beside a reference; by the study's range unless given",
    )  # fmt: skip
    words = parser.parse_args(arguments)
    study = _opened(words.run_dir)
    from blendbench.listening import webmushra

    print(webmushra.export(study, words.folder, words.kind))
    return 0
