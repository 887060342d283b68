"""The report of a run: one static page with the table, and players for noise, music under noise, and prompts.

It opens from disk without a network; audio is referred to by relative paths into the run's folder.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment

from blendbench.errors import BlendbenchError
from blendbench.results import read_rows
from blendbench.store import write_text

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1d1d1f; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { background: #f4f4f6; position: sticky; top: 0; } .scroll { overflow-x: auto; }
audio { width: 15rem; display: block; } .facts { color: #555; font-size: .85em; } .failed { color: #a00; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<div class="scroll"><table>
<thead><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for line in table %}<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
{% for note in notes %}<p class="facts">{{ note }}</p>{% endfor %}
{% for shown in presentations %}
<h2>{{ shown.label }}: noise and music together</h2>
<div class="scroll"><table>
<thead><tr><th>Noise and prompt</th>{% for arm in arms %}<th>{{ arm.label }}</th>{% endfor %}</tr></thead>
<tbody>{% for pair in pairs %}<tr><td>{{ pair.label }}<br><span class="facts">{{ pair.prompt }}</span></td>
{% for arm in arms %}{% set row = cells[(pair.key, arm.name, shown.name)] %}<td>{% if row is none %}–{% elif row.status != "ok" %}<span class="failed">{{ row.reason }}</span>{% else %}<audio controls preload="none" src="{{ row.src }}"></audio><span class="facts">{{ row.facts }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endfor %}
</body>
</html>
"""


def write(run_dir: Path, settings: dict[str, Any], most: int = 60) -> Path:
    """Write `report/index.html` and return its path.

    Parameters
    ----------
    run_dir : Path
        A run's folder with `pairs.jsonl` and `table.csv`.
    most : int
        Pairs shown at the most, the first in the run's order.

    Raises
    ------
    BlendbenchError
        If the folder is no run's, or has no table yet.
    """
    import pandas as pd

    rows = read_rows(run_dir)
    try:
        table = pd.read_csv(run_dir / "table.csv", dtype=str, keep_default_na=False)
        notes = (run_dir / "table.md").read_text(encoding="utf-8").split("\n\n")[2:]
    except OSError:
        raise BlendbenchError(f"{run_dir}: no table yet; run `blendbench table {run_dir}` first") from None
    pairs: dict[Any, dict[str, Any]] = {(row["dataset"], row["pair_id"]): row for row in rows}
    shown = [
        {"key": key, "label": f"{row['label']} ({row['clip']})", "prompt": f"{row['genre']}: {row['prompt']}"}
        for key, row in list(pairs.items())[:most]
    ]
    found = {((row["dataset"], row["pair_id"]), row["arm"], row["presentation"]): _cell(row) for row in rows}
    arms = [
        {"name": name, "label": settings["experiment"]["rows"].get(name, name)}
        for name in dict.fromkeys(r["arm"] for r in rows)
    ]
    presentations = [{"name": name, "label": entry["label"]} for name, entry in settings["presentations"].items()]
    cells = {
        (pair["key"], arm["name"], kind["name"]): found.get((pair["key"], arm["name"], kind["name"]))
        for pair in shown
        for arm in arms
        for kind in presentations
    }
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(
        title=settings["experiment"]["title"], columns=list(table.columns), table=table.values.tolist(), notes=notes,
        pairs=shown, arms=arms, presentations=presentations, cells=cells,
    )  # fmt: skip
    path = run_dir / "report" / "index.html"
    write_text(path, text)
    return path


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    if row["status"] != "ok":
        return {"status": row["status"], "reason": row["reason"]}
    facts = (
        "no music" if row["gain_db"] is None else f"music {row['music_lufs']:.1f} LUFS, gain {row['gain_db']:+.1f} dB"
    )
    if row.get("bound") in ("min", "max"):
        facts += f" (at its {row['bound']}imum)"
    return {"status": "ok", "src": f"../{row['mix']}", "facts": facts}
