"""Plans of earlier versions, as the present one has them.

Version 1 knew one task: a noise, heard first, and mixes of it with music, rated from 1 to 5.
"""

from typing import Any

_OF_VERSION_1 = {
    "columns": {
        "label": {"kind": "class", "label": "Class"},
        "genre": {"kind": "class", "label": "Genre"},
        "prompt": {"kind": "text", "label": "Prompt"},
    },
    "group": "clip",
    "units": ["noise", "noise clips"],
    "parts": {"noise": "Noise", "music": "Music"},
    "first": "noise",
    "catch": ["per", "noise", "music"],
}


def brought_up(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of any known version as the present one has it; raises KeyError or TypeError if it is damaged."""
    if plan["version"] != 1:
        return plan
    samples = []
    for one in plan["samples"]:
        facts = {name: one[name] for name in _OF_VERSION_1["columns"]}
        kept = {name: value for name, value in one.items() if name not in (*facts, "noise")}
        samples.append(kept | {"facts": facts, "first": one["noise"], "reference": None})
    return plan | {"subject": dict(_OF_VERSION_1), "hidden": {}, "samples": samples}
