"""To and from webMUSHRA (Schoeffler et al., 2018, webMUSHRA - A Comprehensive Framework for Web-based Listening Tests).

Formats are those of github.com/audiolabs/webMUSHRA: pages and `doc/experimenter.md` at commit d995452, Likert pages at
5000c20, results as `service/write.php` writes them at 13a105c. What is older has no consent page.

What listeners can read, the configuration, tells nothing: stimuli are C1, C2, ... in the order of their files' random
names, trials are named by such names, and the study knows what they are. How a study fits webMUSHRA:

- Everyone hears all samples once; webMUSHRA shuffles them, with the catch trials among them, and each page's stimuli.
- A page asks one thing. "likert": what is heard first, which must be heard to its end, then a page a scale, with its
  clips and a button a value of the range; an open reference falls away. "mushra": a page a scale, 0 to 100, with
  the study's open reference, else what is heard first, else its hidden reference, as webMUSHRA's. That is always rated,
  too: these are the ratings of the study's hidden reference where it is of the same part, else they are not used. A
  slider that was not moved counts as 100 there.
- The sounds have two equal channels, as webMUSHRA plays a single one on the left side alone.
- There is no headphone check. Nothing is kept of who stops before the last page. Browsers hold all sounds of all pages
  from the start, some 17 MB for a sample of four arms and 5 s: plan few samples.
- `lms.csv` holds no session's identifier, so the last page makes up a random code, which it sends as its questionnaire.
- The sound check after the volume page also keeps `write.php` from failing under PHP 8 once it has written the
  ratings: it takes the first trial for one of a single stimulus.
"""

import csv
import hashlib
import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile
import yaml

from blendbench.errors import BlendbenchError
from blendbench.listening.answers import facts_of, table
from blendbench.listening.study import HIDDEN_REFERENCE, Clip, Sample, Study, position
from blendbench.store.write import write_bytes, write_text

_CHECK = "check"
_OWN = ("reference", "anchor35", "anchor70")
"""Conditions that webMUSHRA adds to a mushra page."""
_MOST = 100
"""The end of its sliders, which begin at 0."""
_RATED = [{"rating_stimulus", "rating_score", "rating_time", "trial_id"},
          {"stimuli", "stimuli_rating", "rating_time", "trial_id"}]  # fmt: skip
"""Columns that mushra.csv and lms.csv have."""
_NO_RATING = ("", "NA")
_NOTHING_SENT = (
    "Your answers are sent when you press the button on the last page, not before. To withdraw, close this window "
    "before that: nothing is kept then, and you cannot go on later."
)
# No apostrophe: yaml.js 0.2.0 reads no second one.
_CODE = (
    "Code of this session, made up at random"
    "<script>document.getElementById(`code`).value = Array.from(crypto.getRandomValues(new Uint8Array(8)), "
    "byte => byte.toString(16).padStart(2, `0`)).join(``);</script>"
)


def export(study: Study, folder: Path, kind: str | None = None) -> Path:
    """Write a study for webMUSHRA.

    Parameters
    ----------
    study : Study
    folder : Path
        webMUSHRA's folder, or one whose `configs` is copied there. `configs/NAME.yaml` is the test, which webMUSHRA
        shows at `?config=NAME.yaml`; its sounds, 44.1 kHz and 16 bit, lie below `configs/resources`.
    kind : {"likert", "mushra"} or None
        None for that of the study's range: likert where its values are buttons.

    Returns
    -------
    Path
        The configuration.

    Raises
    ------
    BlendbenchError
        If there is no such kind or it does not fit the study, a sound cannot be read, or the folder cannot be written.
    """
    ends = study.settings.range
    kind = kind or ("likert" if ends.buttons else "mushra")
    if kind not in ("likert", "mushra"):
        raise BlendbenchError(f"kind: {kind!r} is unknown; use likert or mushra")
    if kind == "likert" and not ends.buttons:
        raise BlendbenchError(f"kind: likert has no buttons for ratings {ends}; use mushra")
    if kind == "mushra" and _reference(study) is None:
        raise BlendbenchError("kind: mushra needs a reference, and this study has none; use likert, or open_reference")
    clips = [study.volume, *(clip for one in study.samples for clip in one.sounds)]
    names = sorted({clip.name for clip in clips})
    test = f"blendbench-{hashlib.sha256(''.join(names).encode()).hexdigest()[:8]}"
    sounds = f"configs/resources/{test}"
    for name in names:
        write_bytes(folder / sounds / f"{name}.wav", _wav(study.clip_file(name)))
    config = {
        "testname": _plain(study.settings.title),
        "testId": f"{test}-{kind}",
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": kind == "likert",  # the way back to what is heard first
        "remoteService": "service/write.php",
        "pages": _pages(study, kind, sounds),
    }
    file = folder / "configs" / f"{test}-{kind}.yaml"
    write_text(file, yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf))
    return file


def _wav(file: Path) -> bytes:
    """A file's samples as a WAV of two channels, a mono one's in both."""
    try:
        samples, rate = soundfile.read(file, dtype="int16", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise BlendbenchError(f"{file}: cannot be read ({error}); put it back from a copy") from None
    buffer = BytesIO()
    both = np.repeat(samples, 2, 1) if samples.shape[1] == 1 else samples
    soundfile.write(buffer, both, rate, "PCM_16", format="WAV")
    return buffer.getvalue()


class _Dumper(yaml.SafeDumper):
    """Writes what webMUSHRA's yaml.js reads: text quoted, on one line; nested lists from a new line on; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def expect_block_sequence(self) -> None:
        if self.sequence_context:
            self.indention = False
        super().expect_block_sequence()


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'"))


def _plain(text: str) -> str:
    """Text in one line of characters that can be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _html(text: str) -> str:
    return html.escape(_plain(text))


def _paragraphs(*texts: str) -> str:
    parts = [part for text in texts for part in re.split(r"\n\s*\n", text)]
    return "".join(f"<p>{_html(part)}</p>" for part in parts if part.strip())


def _token(sample: Sample) -> str:
    """What names a sample's trials: half of the random name of what is heard first, else a hash of all its clips'."""
    names = "".join(sorted(clip.name for clip in sample.clips.values()))
    return sample.first.name[:16] if sample.first else hashlib.sha256(names.encode()).hexdigest()[:16]


def _keys(sample: Sample) -> dict[str, str]:
    """Conditions of a sample by the names of its stimuli."""
    conditions = sorted(sample.clips, key=lambda condition: sample.clips[condition].name)
    return {f"C{place}": condition for place, condition in enumerate(conditions, 1)}


def _reference(study: Study) -> str | None:
    """The part that is the reference on a mushra page."""
    settings = study.settings
    return settings.open_reference or study.subject.first or settings.hidden_reference


def _reference_clip(study: Study, sample: Sample) -> Clip:
    return sample.reference or sample.first or sample.clips[HIDDEN_REFERENCE]


def _rated_as_reference(study: Study) -> bool:
    """Whether webMUSHRA's own rating of its reference is that of the study's hidden reference."""
    return study.settings.hidden_reference is not None and study.settings.hidden_reference == _reference(study)


def _pages(study: Study, kind: str, sounds: str) -> list[Any]:
    settings = study.settings
    contact = f"Questions? {settings.contact}" if settings.contact else ""
    consent = _paragraphs(study.consent(_minutes(study, kind)), _NOTHING_SENT, contact)
    volume = f"{sounds}/{study.volume.name}.wav"
    answers = [{"value": value, "label": value.capitalize()} for value in ("yes", "no")]
    code = {"type": "text", "name": "code", "label": _CODE, "optional": False}
    practice = [page for one in study.of_kind("practice") for page in _group(study, one, kind, sounds)]
    # By their random names: in the study's order, the catch trials would be the last.
    others = sorted((one for one in study.samples if one.kind != "practice"), key=_token)
    return [
        {"type": "consent", "id": "consent", "name": _html(settings.title), "mustConsent": True,
         "content": consent},
        {"type": "volume", "id": "volume", "name": "Volume", "stimulus": volume, "defaultVolume": 0.5,
         "content": "Put on headphones, play this sound and set a comfortable volume. Do not change it later."},
        {"type": "likert_single_stimulus", "id": _CHECK, "name": "Sound check", "mustRate": True,
         "mustPlayback": "ended", "content": "Play this sound once more. Do you hear it well, on both sides?",
         "stimuli": {"sound": volume}, "response": answers},
        *practice,
        ["random", *(_group(study, one, kind, sounds) for one in others)],
        {"type": "finish", "name": "Thank you", "content": "<p>All is rated. Please send your ratings.</p>",
         "popupContent": _paragraphs(settings.thanks), "showResults": False, "showErrors": True,
         "writeResults": True, "questionnaire": [code]},
    ]  # fmt: skip


def _minutes(study: Study, kind: str) -> int:
    """About how long a listener needs, who hears every sample once a scale."""
    pages = len(study.samples) * len(study.scales)
    heard = bool(study.subject.first) and kind == "likert"
    clips = pages * (len(study.conditions) + (kind == "mushra")) + len(study.samples) * heard
    return study.minutes_of(clips)


def _group(study: Study, sample: Sample, kind: str, sounds: str) -> list[dict[str, Any]]:
    """Pages of a sample, which stay together."""
    prefix = "Practice: " if sample.kind == "practice" else ""
    own = HIDDEN_REFERENCE if kind == "mushra" and _rated_as_reference(study) else None
    stimuli = {
        key: f"{sounds}/{sample.clips[condition].name}.wav"
        for key, condition in _keys(sample).items()
        if condition != own
    }
    ends, pages = study.settings.range, list[dict[str, Any]]()
    if kind == "mushra":
        part = _reference(study) or ""
        reference = f"{sounds}/{_reference_clip(study, sample).name}.wav"
    if kind == "likert" and sample.first:
        called = _html(study.subject.parts[study.subject.first].lower())
        pages.append(
            {"type": "likert_single_stimulus", "id": f"heard-{_token(sample)}", "name": f"{prefix}The {called} alone",
             "content": f"Play this {called} to its end. On the next pages you rate what was made of it.",
             "mustRate": True, "mustPlayback": "ended",
             "stimuli": {"first": f"{sounds}/{sample.first.name}.wav"},
             "response": [{"value": "heard", "label": "I have heard it"}]}
        )  # fmt: skip
    for name, scale in study.scales.items():
        lowest, highest = (ends.low, ends.high) if kind == "likert" else (0, _MOST)
        told = f"{lowest}: {_html(scale.low)}<br>{highest}: {_html(scale.high)}"
        page: dict[str, Any] = {
            "type": "likert_multi_stimulus" if kind == "likert" else "mushra",
            "id": f"{_token(sample)}-{name}",
            "name": prefix + _html(scale.label),
            "content": f"{_html(scale.text)}<br>{told}",
        }
        if kind == "likert":
            page |= {"mustRate": True, "mustPlayback": "ended", "stimuli": stimuli,
                     "response": [{"value": value, "label": str(value)} for value in ends.values]}  # fmt: skip
        else:
            page["content"] += f"<br>The reference is the {_html(study.subject.parts[part].lower())} alone."
            page |= {"showWaveform": False, "enableLooping": False, "strict": False, "reference": reference,
                     "createAnchor35": False, "createAnchor70": False, "randomize": True,
                     "showConditionNames": False, "stimuli": stimuli}  # fmt: skip
        pages.append(page)
    return pages


class _Row(NamedTuple):
    """A line of a result file."""

    where: str
    """The file and the line's number."""
    session: tuple[str, ...]
    """What tells its session from others: test, questionnaire and, where there is one, identifier."""
    fields: dict[str, str]


class _Rating(NamedTuple):
    value: float | None
    """None where there is no rating of a mix."""
    milliseconds: float | None
    """On the page."""


_Session = dict[str, dict[str, _Rating]]
"""Ratings by trial and stimulus, in the order of the pages and of the stimuli on them."""


def read_results(study: Study, files: Sequence[Path]) -> pd.DataFrame:
    """Ratings of a study from webMUSHRA's result files.

    A session is a listener, numbered from 0 in the order in which they come; one that is there twice, as results were
    sent twice or a file is a copy of another, counts once. What was not rated has no row.

    Parameters
    ----------
    study : Study
        The study that was exported.
    files : sequence of Path
        `lms.csv` and `mushra.csv` of `results/TEST`; `lss.csv` may be among them and adds nothing.

    Returns
    -------
    DataFrame
        `blendbench.listening.answers.columns`. `page` counts a listener's samples in the order heard; `position` is the
        place on the page of that scale, in mushra.csv with webMUSHRA's reference among the places; `page_s` is what the
        pages of a sample's scales took together, in seconds. `value` is in the study's range: Likert ratings as they
        are, MUSHRA scores, 0 to 100, brought to that range and not rounded. `changes` and `plays` are empty.
        webMUSHRA's reference has rows where it is the study's hidden one.

    Raises
    ------
    BlendbenchError
        Naming file and line, if a file cannot be read or is no result of webMUSHRA's, a trial or stimulus is not of
        this study, or a value is out of range.
    """
    asked = {f"{_token(one)}-{scale}": (one, scale) for one in study.samples for scale in study.scales}
    passed = {_CHECK, *(f"heard-{_token(one)}" for one in study.samples)}
    found: list[tuple[tuple[str, ...], _Session]] = []
    for file in files:
        for one in _sessions(study, _rows(file), asked, passed):
            if one not in found:
                found.append(one)
    lines: list[list[Any]] = []
    listener = 0
    for _, session in found:
        rated = _lines(study, listener, session, asked)
        lines += rated
        listener += bool(rated)
    return table(study, lines)


def _rows(file: Path) -> Iterator[_Row]:
    """Lines of a result file, as PHP's fputcsv writes them; columns may change at a repeated header."""
    names: list[str] = []
    first, line = 0, 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            lines = csv.reader(text)
            for row in lines:
                line, before = lines.line_num, line
                where = f"{file}:{before + 1}"
                if not row:
                    continue
                if row[0] == "session_test_id" and any(columns < set(row) for columns in _RATED):
                    names = row
                    first = min(row.index(name) for name in ("session_uuid", "trial_id") if name in row)
                    continue
                if not names:
                    raise BlendbenchError(f"{where}: no header of ratings by webMUSHRA; give its lms.csv or mushra.csv")
                yield _row(where, row, names, first)
    except OSError as error:
        raise BlendbenchError(f"{file}: cannot be read ({error.strerror}); give webMUSHRA's lms.csv") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BlendbenchError(f"{file}:{line + 1}: no result of webMUSHRA ({error}); give its lms.csv") from None
    if not names:
        raise BlendbenchError(f"{file}:1: empty; give webMUSHRA's lms.csv or mushra.csv")


def _row(where: str, row: list[str], names: list[str], first: int) -> _Row:
    """A row under a header whose columns up to `first` are the test and the questionnaire."""
    last = len(row) - (len(names) - first)
    answers, asked = row[1:last], first - 1
    if last > first and asked and answers == answers[:asked] * (len(answers) // asked):
        answers = answers[:asked]  # sent twice: the questionnaire stands twice in the second
    if last < 1 or len(answers) != asked:
        raise BlendbenchError(f"{where}: {len(row)} fields in place of {len(names)}; copy the file again")
    fields = dict(zip(names[first:], map(str.strip, row[last:]), strict=True))
    return _Row(where, (row[0], *answers, fields.get("session_uuid", "")), fields)


def _sessions(
    study: Study, rows: Iterator[_Row], asked: Mapping[str, tuple[Sample, str]], passed: set[str]
) -> list[tuple[tuple[str, ...], _Session]]:
    """Sessions of a file; of those told apart by nothing, one ends where a rating comes again."""
    sessions: list[tuple[tuple[str, ...], _Session]] = []
    latest: dict[tuple[str, ...], _Session] = {}
    for row in rows:
        trial = row.fields["trial_id"]
        if trial in passed:
            continue
        if trial not in asked:
            raise BlendbenchError(f"{row.where}: trial {trial!r} is not of this study; give the results of its export")
        stimulus, rating = _rating(study, row, asked[trial][0])
        if row.session not in latest or stimulus in latest[row.session].get(trial, ()):
            latest[row.session] = {}
            sessions.append((row.session, latest[row.session]))
        latest[row.session].setdefault(trial, {})[stimulus] = rating
    return sessions


def _rating(study: Study, row: _Row, sample: Sample) -> tuple[str, _Rating]:
    """What a row rates, and how."""
    column = "rating_score" if "rating_score" in row.fields else "stimuli_rating"
    what = "rating_stimulus" if column == "rating_score" else "stimuli"
    stimulus, text, time = row.fields[what], row.fields[column], row.fields["rating_time"]
    milliseconds = None if time in _NO_RATING else _number(time, math.inf)
    if milliseconds is not None and not math.isfinite(milliseconds):
        raise BlendbenchError(f"{row.where}: rating_time {time!r} is no milliseconds from 0; mend or delete the line")
    own = column == "rating_score" and stimulus in _OWN
    if own and not (stimulus == _OWN[0] and _rated_as_reference(study)):
        return stimulus, _Rating(None, milliseconds)
    if not own and stimulus not in _keys(sample):
        raise BlendbenchError(
            f"{row.where}: stimulus {stimulus!r} is not of this study; give the results of its export"
        )
    if text in _NO_RATING:
        return stimulus, _Rating(None, milliseconds)
    ends = study.settings.range
    if column == "stimuli_rating":
        if text not in map(str, ends.values):
            raise BlendbenchError(f"{row.where}: {column} {text!r} is not {ends}; mend or delete the line")
        return stimulus, _Rating(int(text), milliseconds)
    score = _number(text, _MOST)
    if math.isnan(score):
        raise BlendbenchError(f"{row.where}: {column} {text!r} is not 0 to {_MOST}; mend or delete the line")
    return stimulus, _Rating(ends.of_share(score, _MOST), milliseconds)


def _number(text: str, most: float) -> float:
    """A number from 0 on; nan if it is none, or out of range."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if 0 <= number <= most else math.nan


def _lines(study: Study, listener: int, session: _Session, asked: Mapping[str, tuple[Sample, str]]) -> list[list[Any]]:
    """Lines of the export of a session's ratings."""
    times: dict[str, list[float]] = {}
    for trial, ratings in session.items():
        on_page = [rating.milliseconds for rating in ratings.values() if rating.milliseconds is not None]
        times.setdefault(asked[trial][0].name, []).extend(on_page[:1])
    seconds = {name: sum(page_times) / 1000 if page_times else None for name, page_times in times.items()}
    pages = {name: page for page, name in enumerate(times)}
    lines = []
    for trial, ratings in session.items():
        sample, scale = asked[trial]
        for place, (stimulus, rating) in enumerate(ratings.items()):
            if rating.value is not None:
                what = [
                    sample.kind,
                    *facts_of(study, sample),
                    _keys(sample).get(stimulus, HIDDEN_REFERENCE),
                    scale,
                    rating.value,
                    None,
                    None,
                    seconds[sample.name],
                ]
                lines.append([listener, pages[sample.name], position(place), *what])
    return lines
