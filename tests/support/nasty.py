"""Texts as people write them that some output takes for its own language, and a run whose every text is one of them."""

import csv
from pathlib import Path
from typing import Any

import soundfile
import yaml

from support.worlds import RATE, World, call, noise_sound

TEXTS = {
    "mathtext": "club beat $$in$$ $x^{2$",
    "interpolation": "${oc.env:HOME} and ${nowhere}",
    "latex": r"100 % of a_b & c#d ~e ^f {g} \h \\[2em] \end{table} %",
    "brackets": "[2em] opening",
    "quotes": "\"straight\" 'single' “curly” ‘curly’ -- --- ``x'' ?` !` << >> ,,",
    "markup": '</script><script>alert(1)</script> <!-- &amp; <b title="x">\' --> <http://x.org>',
    "markdown": "a | b `c` ``d`` *e* __f__ [g](h) ![i](j) ~~k~~ \\| \\* &lt; <br> www.x.org #",
    "heading": "# not a heading",
    "rule": "---",
    "list": "1. one",
    "path": "a/b#c?d%20e\\f..",
    "hidden": "_nolegend_",
    "formula": '=HYPERLINK("http://x.org","y")',
    "plus": "+1+1",
    "minus": "-2+3 rain",
    "at": "@SUM(A1)",
    "lines": "one\ntwo\n\nthree\r\nfour\rfive\tsix",
    "spaces": "wide   gap",
    "cjk": "雨の音 서울 ひらがな 𠮷",
    "accents": "Café Łódź ß Ωμέγα Привет",
    "combining": "e\u0301 a\u0323\u0308",
    "right-to-left": "(מוזיקה) הגשם: 100%",
    "arabic": "صوت المطر [1]",
    "emoji": "🎵 👩🏽\u200d🎤 🏳️\u200d🌈",
    "escape": "bell\x07 \x1b[31mred\x1b[0m \x7f \x9b",
    "separators": "a\u2028b\u2029c\u0085d\u00a0e\u200bf\ufeffg",
    "override": "gnp.\u202eexe\u2066 hidden",
    "missing": "NA",
    "null": "null",
    "number": "1e3",
    "long": "very " * 60 + "long",
}
"""By what they are made to upset."""

ENDING = ("mathtext", "brackets", "hidden")
"""Labels of the arms that really run."""
ARMS = ("noise_only", "random_music", "again")
_METHODS = {"noise_only": "noise_only"}


def written(text: str) -> str:
    """A text as it is to be written into a YAML that Hydra composes, where `${` begins an interpolation."""
    return text.replace("${", r"\${")


def experiment(paper_csv: Path) -> dict[str, Any]:
    """An experiment whose title, arms and presentations are called by the texts; writes the figures of its paper.

    These keep a row in the table for arms that are not run.
    """
    texts = dict(TEXTS)
    rows = {arm: texts.pop(name) for arm, name in zip(ARMS, ENDING, strict=True)}
    rows |= {f"not_run_{number}": text for number, text in enumerate(texts.values())}
    with paper_csv.open("w", newline="", encoding="utf-8") as opened:
        figures = [["paper", arm, "direct", "fad", 1.5] for arm in rows if arm not in ARMS]
        csv.writer(opened).writerows([["dataset", "arm", "presentation", "metric", "value"], *figures])
    return {
        "defaults": [{f"/method@arms.{arm}": _METHODS.get(arm, "random_music")} for arm in ARMS],
        "experiment": {
            "name": "nasty/run", "title": written(f"{TEXTS['latex']} {TEXTS['markup']} {TEXTS['cjk']}"),
            "paper_csv": str(paper_csv), "metrics": ["fad", "kl"], "paper_dataset": {"folder": "paper"},
            "rows": {arm: written(text) for arm, text in rows.items()},
        },
        "presentations": {
            "direct": {"kind": "direct", "label": TEXTS["formula"]},
            "soft": {"kind": "loudness", "lufs": -24.0, "label": f"{TEXTS['markdown']} {TEXTS['lines']}"},
        },
    }  # fmt: skip


def noises(folder: Path) -> Path:
    """Noises whose names, labels, prompts and genres are the texts, each once; returns their table."""
    texts, lines = list(TEXTS.values()), []
    folder.mkdir(parents=True)
    for number in range(0, len(texts), 3):
        name, label, prompt = (texts[(number + more) % len(texts)] for more in range(3))
        file = f"{number} {name[:60].replace('/', '_')}.wav"
        soundfile.write(folder / file, noise_sound(number % 5), RATE)
        lines.append([file, label, prompt, label])
    table = folder.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8-sig") as opened:
        csv.writer(opened).writerows([["file", "label", "prompt", "genre"], *lines])
    return table


def words(world: World, folder: Path) -> list[str]:
    """The command line of the run, whose folder is `folder / "run"`."""
    file = folder / "conf" / "experiment" / "nasty.yaml"
    file.parent.mkdir(parents=True)
    text = yaml.safe_dump(experiment(folder / "paper.csv"), default_style='"', sort_keys=False)
    file.write_text(f"# @package _global_\n{text}", encoding="utf-8")
    table = noises(folder / "noises")
    own = ["dataset=folder", f"data.path={folder / 'noises'}", f"data.table={table}", f"run_dir={folder / 'run'}"]
    kept = [word for word in world.words() if not word.startswith(("dataset", "generator"))]
    return ["run", "experiment=nasty", *kept, *own, "noise.seconds=1.0", "--config-dir", str(folder / "conf")]


def run(world: World, folder: Path) -> Path:
    """Do the run; returns its folder."""
    assert call(*words(world, folder)) == 0
    return folder / "run"
