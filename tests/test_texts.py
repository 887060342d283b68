"""Texts that people write, through a real run into every output: each is read back as a reader of that output would."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from support import nasty, runs
from support.listeners import blend_settings
from support.nasty import TEXTS
from support.worlds import call, rows_of

from blendbench import config, texts
from blendbench.composing import compose
from blendbench.figures import bnmusic, drawing
from blendbench.figures.sweep import sweep
from blendbench.listening import planning, webmushra
from blendbench.listening import study as studies
from blendbench.reports import sweeps, tables
from blendbench.runs import KEY
from blendbench.runs.folder import COLUMNS, Run, read_settings
from blendbench.trackers import wandb

WRITTEN = st.text(alphabet=st.sampled_from("\\${}'\"|`*_[]()<>&~#=+-@!a1 \n\r\t\u2028é雨\u0301"), max_size=12)
FEW = settings(max_examples=300, derandomize=True, database=None, deadline=None)
SEEN = {name: " ".join(texts.shown(text).split()) for name, text in TEXTS.items()}
"""As a renderer that folds spaces shows them."""


@pytest.fixture(scope="module")
def run_dir(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose every text is nasty. Tests must not change it."""
    return nasty.run(world, tmp_path_factory.mktemp("nasty"))


@pytest.fixture(scope="module")
def own(run_dir: Path) -> dict[str, Any]:
    return read_settings(run_dir)


def rendered(text: str) -> list[str]:
    """Texts of the headings, paragraphs and cells of a Markdown file, and of no other kind of block."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    known = {"heading", "paragraph", "inline", "table", "thead", "tbody", "tr", "th", "td"}
    tokens = parser.parse(text)
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= known
    found = []
    for token in tokens:
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special", "strong_open", "strong_close"}
            found.append("".join(child.content for child in children))
    return found


def folded(text: str) -> str:
    return " ".join(text.split())


# The settings and the rows


def test_labels_come_back_from_the_runs_settings_as_they_were_written(own):
    rows = own["experiment"]["rows"]
    assert sorted(rows.values()) == sorted(TEXTS.values())
    assert own["presentations"]["direct"]["label"] == TEXTS["formula"]


def test_rows_hold_labels_and_prompts_of_the_data_sets_table(run_dir):
    held = {row[name] for row in rows_of(run_dir) for name in ("label", "prompt", "genre")}
    values = list(TEXTS.values())
    expected = {values[at % len(values)].strip() for start in range(0, len(values), 3) for at in (start + 1, start + 2)}
    assert held == expected
    assert all((run_dir / row["mix"]).is_file() for row in rows_of(run_dir))


@FEW
@given(text=WRITTEN)
def test_settings_and_overrides_hold_any_text(text):
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(config.literal({"a": [text]}))))
    assert OmegaConf.to_container(again, resolve=True) == {"a": [text]}
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_override(sweeps.override("k", text)).value()
    assert OmegaConf.to_container(OmegaConf.create({"k": value}), resolve=True) == {"k": text}


@pytest.mark.parametrize("text", ["null", "True", "1e3", "007", "nan"])
def test_swept_text_that_looks_like_another_kind_of_value_stays_text(text):
    assert sweeps.override("k", text) == f"k='{text}'"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("experiment.rows.bnmusic=1e3", "experiment.rows.bnmusic: 1000.0 is no text; write it in quotes"),
        ("presentations.direct.label=true", "presentations.direct.label: True is no text"),
        ("experiment.title=null", "experiment.title: None is no text"),
    ],
)
def test_label_that_is_no_text_is_named(world, tmp_path, capsys, word, said):
    assert world.run(tmp_path / "run", word) == 2
    assert said in capsys.readouterr().err


# Figures


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets every figure that is saved also be written as an SVG that keeps its texts; returns the list of these."""
    kept: list[str] = []
    save = drawing.save

    def also(figure: Figure, file: Path) -> None:
        save(figure, file)
        assert max(figure.get_size_inches()) < 40
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            save(figure, file.with_suffix(".svg"))
        kept.append(file.with_suffix(".svg").read_text(encoding="utf-8"))

    monkeypatch.setattr(drawing, "save", also)
    return kept


def of_svg(text: str) -> str:
    """All texts of an SVG, without space: words are broken into lines, and runs of one direction."""
    from xml.etree import ElementTree

    return "".join("".join(ElementTree.fromstring(text).itertext()).split()).replace("\u200b", "")


@pytest.mark.parametrize("start", range(0, len(TEXTS), 3))
def test_figures_show_labels_as_they_are(run_dir, own, tmp_path, monkeypatch, capfd, recwarn, start):
    kept = drawn(monkeypatch)
    labels = (list(TEXTS.values()) * 2)[start : start + 3]
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    rows = dict(zip(nasty.ARMS, labels, strict=True))
    run, arms = Run(tmp_path / "run", own | {"experiment": own["experiment"] | {"rows": rows}}), list(nasty.ARMS)
    bnmusic.difference_heatmaps(run, "direct", 1, arms)
    bnmusic.waveforms(run, "direct", start // 3, arms)
    bnmusic.metric_against_loudness(run, arms=arms)
    together = run.results().assign(key=labels[0], other=labels[1])
    together["line"] = together["arm"].map(rows) + ", " + together["presentation"]
    keys, metrics = {"key": "key", "other": "other"}, {"fad": "FAD", "kl": "KL"}
    sweep(together, keys, metrics, run.dir / "figures" / "sweep.png")
    assert len(kept) == 5  # one is a PDF, too
    for text in kept:
        for label in labels:
            assert "".join(texts.short(label, 36).rstrip("…").split()).translate(
                {0x200B: None, 0xFEFF: None}
            ) in of_svg(text)
    assert not [str(one.message) for one in recwarn.list if issubclass(one.category, UserWarning)]
    assert capfd.readouterr().err == ""


def test_figures_take_a_character_from_a_font_that_has_it():
    (family,) = drawing._further_fonts("\ue310") or [""]  # STIX's own, of the private area
    assert not family or 0xE310 in drawing._characters()[family]
    assert drawing._further_fonts("Ordinary – text") == []
    assert drawing._further_fonts("\U0010fffd") == []


# LaTeX


@pytest.fixture(scope="module")
def pdflatex() -> str:
    program = shutil.which("pdflatex")
    if program is None:
        message = "no pdflatex; install Debian's texlive-latex-recommended to run this test"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return program


def compile_table(pdflatex: str, folder: Path, table: str) -> str:
    """The log of a document that holds the table and a list of tables, typeset twice."""
    (folder / "table.tex").write_text(table, encoding="utf-8")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\listoftables\input{table}\end{document}"
    (folder / "main.tex").write_text(document)
    for _ in range(2):
        words = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
        done = subprocess.run(words, cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "main.log").read_text(errors="replace")


def test_table_compiles_with_booktabs_alone(run_dir, tmp_path, pdflatex):
    log = compile_table(pdflatex, tmp_path, (run_dir / "table.tex").read_text(encoding="utf-8"))
    assert "Missing character" not in log
    assert "(1 page" in log or "(2 pages" in log or "(3 pages" in log


def test_every_character_that_is_kept_in_latex_has_a_glyph(tmp_path, pdflatex):
    kept = [chr(code) for code in (*range(0x20, 0x530), *range(0x1E00, 0x2400))]
    assert sum(r"\unicodetext" not in texts.latex(character) for character in kept) > 300
    frame = pd.DataFrame({"a": ["x".join(kept[at : at + 100]) for at in range(0, len(kept), 100)]})
    log = compile_table(pdflatex, tmp_path, tables.to_latex(tables.of_frame(frame), "".join(kept), "tab:x"))
    assert "Missing character" not in log


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50 % of a_b & {c}", r"50 \% of a\_b \& \{c\}"),
        ("Café – “x”", "Café -- ``x''"),
        ("a -- ''b'' ?`", r"a -{}- '{}'b'{}' ?\`{}"),
        ('say "x|y"', r"say \texttt{\char34}x\textbar{}y\texttt{\char34}"),
        ("one\n\ntwo", "one two"),
        ("雨 音, e\u0301", r"\unicodetext{雨 音}{U+96E8 U+97F3}, é"),
        ("\x1b[1m", r"\textbackslash{}x1b[1m"),
    ],
)
def test_text_in_latex(text, written):
    assert texts.latex(text) == written


def test_definition_stands_only_where_it_is_needed():
    plain, other = (
        tables.to_latex(tables.of_frame(pd.DataFrame({"a": [text]})), "c", "tab: {x}%") for text in ("é", "雨")
    )
    assert plain.startswith("\\begin{table}")
    assert other.startswith("\\providecommand{\\unicodetext}")
    assert "\\label{tab:-x-}" in plain


# Markdown


def test_markdown_renders_to_the_texts(run_dir, own):
    found = rendered((run_dir / "table.md").read_text(encoding="utf-8"))
    assert found[0] == texts.shown(own["experiment"]["title"])
    run = Run.open(run_dir)
    layout = tables.layout(run, run.results())
    cells = [str(cell) for line in (layout.columns, *layout.rows) for cell in line]
    told = tables.notes(run, run.results())
    assert list(map(folded, found[1:])) == [folded(texts.shown(text)) for text in (*cells, *told)]


@FEW
@given(text=WRITTEN)
def test_any_text_survives_markdown(text):
    seen = texts.shown(text).strip()
    cell = texts.markdown(text, cell=True)
    assert rendered(f"# {texts.heading(text)}\n") == [seen]
    assert rendered(f"| {cell} | b |\n| - | - |\n| {cell} | **x{cell}** |\n") == [seen, "b", seen, f"x{seen}"]
    if seen:
        assert rendered(f"a\n\n{texts.markdown(text)}\n\nb\n") == ["a", seen, "b"]


def test_ordinary_text_in_markdown_stays_as_it_is():
    for text in (
        "paper's FAD/KL (epic_sounds)",
        "1.5 [0.9, 2]",
        "< 0.001",
        "KL(ref||gen), 95 % – x@1a",
        "A & B",
        "3 - 2",
    ):
        assert texts.markdown(text) == text


# CSV


def test_csv_of_scores_holds_the_true_texts(run_dir):
    table = pd.read_csv(run_dir / "scores.csv", dtype=str, keep_default_na=False).set_index([*KEY])
    for row in rows_of(run_dir):
        line = table.loc[tuple(row[name] for name in KEY)]
        assert [line[name] for name in ("label", "genre", "clip")] == [row[name] for name in ("label", "genre", "clip")]


def test_table_for_a_spreadsheet_computes_nothing_and_is_read_back(run_dir, own):
    with (run_dir / "table.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    for cell in (*header, *(line[0] for line in lines)):
        assert not cell.startswith(("=", "+", "-2", "@", "\t", "\r"))
    assert [texts.from_spreadsheet(line[0]) for line in lines] == list(own["experiment"]["rows"].values())


@FEW
@given(cells=st.lists(WRITTEN, min_size=1, max_size=4))
def test_any_text_survives_csv(cells, tmp_path_factory):
    frame = pd.DataFrame({"a": cells, "b": "x"})
    found = pd.read_csv(io.StringIO(texts.csv_text(frame), newline=""), dtype=str, keep_default_na=False)
    assert found["a"].tolist() == cells
    read = pd.read_csv(io.StringIO(tables.to_csv(tables.of_frame(frame)), newline=""), dtype=str, keep_default_na=False)
    assert [texts.from_spreadsheet(cell) for cell in read["a"]] == cells


@pytest.mark.parametrize("cell", ["-0.5", "–", "-0.5 [-1.2e-05, 2]", "+0.02 / -1.50", "-inf", "– / 2.33"])
def test_number_stays_a_number_in_a_spreadsheet(cell):
    assert texts.for_spreadsheet(cell) == cell


@pytest.mark.parametrize("cell", ["=1", "+1+1", "-2+3 rain", "@x", "\t=1", "\r=1", "'=1", "-"])
def test_text_that_begins_like_a_formula_is_marked(cell):
    assert texts.for_spreadsheet(cell) == f"'{cell}"
    assert texts.from_spreadsheet(f"'{cell}") == cell


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path):
    row = dict.fromkeys(COLUMNS, "1") | {"arm": "NA", "dataset": "007", "presentation": "1e3", "ci_low": ""}
    runs.write(tmp_path, results=runs.results([row]))
    found = Run(tmp_path, compose(["experiment=bnmusic/table1"])).results().iloc[0]
    assert (found["arm"], found["dataset"], found["presentation"]) == ("NA", "007", "1e3")
    assert found["value"] == 1
    assert pd.isna(found["ci_low"])


# The report


@pytest.fixture(scope="module")
def page(run_dir: Path, chromium) -> Iterator[Any]:
    opened = chromium().new_page()
    said: list[str] = []
    opened.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((run_dir / "report" / "index.html").as_uri())
    yield opened
    assert not said


def test_report_shows_the_texts(page, run_dir, own):
    def all_of(selector: str) -> list[str]:
        return page.eval_on_selector_all(selector, "found => found.map(one => one.textContent)")

    def lines(words: list[str]) -> list[str]:
        return [word.replace("\r\n", "\n").replace("\r", "\n") for word in words]  # as HTML reads them

    assert all_of("h1") == [own["experiment"]["title"]]
    assert all_of("#table tbody th") == lines(list(own["experiment"]["rows"].values()))
    pairs = json.loads((run_dir / "report" / "data.js").read_text().removeprefix("const REPORT = ").rstrip(";\n"))[
        "pairs"
    ]
    assert all_of("#panel h3") == [pair["label"] for pair in pairs]
    assert all_of("#panel .prompt") == [pair["prompt"] for pair in pairs]
    assert all(one == "auto" for one in page.eval_on_selector_all("#panel h3", "found => found.map(one => one.dir)"))


def test_report_finds_pairs_by_every_label(page):
    count = page.evaluate("REPORT.choices.label.length")
    assert count > 5
    for place in range(count):
        page.select_option("#by-label", str(place))
        found = page.eval_on_selector_all("#panel h3", "found => found.map(one => one.textContent)")
        assert found and set(found) == {page.evaluate(f"REPORT.choices.label[{place}]")}
    page.select_option("#by-label", "")


def test_report_plays_every_sound(page, run_dir):
    sources = page.eval_on_selector_all("#panel audio, #panel img", "found => found.map(one => one.src)")
    from urllib.parse import unquote, urlparse

    assert sources
    assert all(Path(unquote(urlparse(source).path)).is_file() for source in sources)


# Weights & Biases


def test_mirror_holds_the_true_texts(run_dir, own, tmp_path, monkeypatch):
    from test_tracking import Mirror, plain_environment

    plain_environment(monkeypatch, tmp_path)
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    folder = wandb.push(tmp_path / "run", own | {"tracker": {"mode": "offline", "media_pairs": 1}}).splitlines()[0]
    mirrored = Mirror(Path(folder))
    assert mirrored.run.notes == own["experiment"]["title"]
    assert mirrored.config["experiment"] == own["experiment"]
    assert [row["Method"] for row in mirrored.table("table")] == list(own["experiment"]["rows"].values())
    assert {row["prompt"] for row in mirrored.table("pairs")} == {row["prompt"] for row in rows_of(run_dir)}


# Listening


def test_study_and_its_export_hold_the_texts(run_dir, own, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    given = {"title": TEXTS["markup"], "contact": TEXTS["interpolation"], "consent": TEXTS["lines"]}
    scale = {"label": TEXTS["cjk"], "text": TEXTS["right-to-left"], "low": TEXTS["quotes"], "high": TEXTS["escape"]}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(given | {"scales": {"ovl": scale}}), encoding="utf-8")
    words = ["samples=2", "practice=0", "catch_trials=0", "headphone_check.trials=0"]
    planning.plan(Run.open(tmp_path / "run"), blend_settings(file, words))
    study = studies.read(tmp_path / "run")
    assert study is not None
    assert {name: getattr(study.settings, name) for name in given} == given
    assert {name: one.as_dict() for name, one in study.scales.items()} == {"ovl": scale}
    assert list(study.arms.values()) == [own["experiment"]["rows"][arm] for arm in study.arms]
    exported = yaml.safe_load(webmushra.export(study, tmp_path / "out").read_text(encoding="utf-8"))
    assert exported["testname"] == TEXTS["markup"]


@pytest.mark.parametrize("names", [("mathtext", "hidden", "markdown"), ("lines", "cjk", "long")])
def test_analysis_of_a_study_shows_the_texts(tmp_path, names, recwarn):
    from test_listen_analysis import ARMS, People, analyse, make_study

    arms = dict(zip(ARMS, (TEXTS[name] for name in names), strict=True))
    study = make_study(tmp_path / "run", arms=arms, samples=4)
    study = replace(study, settings=replace(study.settings, title=TEXTS["heading"]))
    file = analyse(study, People(count=4).ratings(study), {})
    # Lists and pictures are the page's own.
    found = "\n".join(token.content for token in MarkdownIt().enable("table").parse(file.read_text(encoding="utf-8")))
    for label in arms.values():
        assert f"\n{texts.markdown(label, cell=True).replace(chr(92) + '|', '|')}\n" in found
    assert "Glyph" not in " ".join(str(one.message) for one in recwarn.list)
    assert Image.open(file.with_name("ratings.png")).width < 4000


# The terminal


@pytest.mark.parametrize("settings_of", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_terminal_without_such_characters_is_no_failure(run_dir, tmp_path, settings_of):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    words = [sys.executable, "-c", "from blendbench.cli import main; main()", "table", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, env=os.environ | settings_of)
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode("ascii")
    assert "\\u96e8" in out
    assert not [character for character in out if character != "\n" and not character.isprintable()]
    for name in ("table.md", "table.csv", "table.tex", "scores.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (run_dir / name).read_bytes()


def test_printed_table_moves_no_cursor(run_dir, capsys):
    printed = (run_dir / "table.md").read_text(encoding="utf-8")
    assert "bell\\x07 \\x1b[31mred" in printed
    assert not set(printed) & set("\x07\x1b\x7f\x9b\u202e\u2066\u2028\r\t")


def test_error_moves_no_cursor(capsys):
    assert call("table", "/nowhere/\x1b[31m\u202e雨") == 1
    assert capsys.readouterr().err.startswith("blendbench: /nowhere/\\x1b[31m\\u202e雨: no config.yaml")
