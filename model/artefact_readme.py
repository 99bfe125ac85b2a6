"""The model card (README.md of an artefact) from its manifest and robustness figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card_text(manifest: Mapping[str, Any], robustness: Mapping[str, Any] | None) -> str:
    """Markdown with a YAML header, as the Hugging Face hub reads it; a function of its arguments."""
    image, text = (manifest["architecture"].get(side) for side in ("image", "text"))
    data = manifest["training_data"]
    rows = [
        ("bits", manifest["bits"]),
        ("image tower", _tower(image)),
        ("text tower", _tower(text)),
        ("defence", manifest["defence"].get("name", "none")),
        ("training data (fingerprint)", data.get("fingerprint", "not recorded")),
        ("labels", len(manifest["label_names"])),
        ("seed", manifest["seed"]),
        ("code version", manifest["code_version"]),
        ("created", manifest["created"]),
    ]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    return f"""---
library_name: hashguard
tags: [image-text-retrieval, hashing]
---
# {manifest["name"]} version {manifest["version"]}

Binary codes of {manifest["bits"]} bits for images and texts in one Hamming space.

**Known to break at:** {known_to_break_at(manifest, robustness)}

| | |
|---|---|
{table}

## Scores

```json
{json.dumps(manifest["scores"], indent=2, sort_keys=True)}
```

Distances order hits; `calibration.json` turns them into probabilities of relevance on data like the training
data. The codes say nothing about inputs unlike it, and must not be used to identify people.
"""


def known_to_break_at(manifest: Mapping[str, Any], robustness: Mapping[str, Any] | None) -> str:
    """One sentence: the least measured budget at which an attack takes half of the clean mAP or more.

    `robustness` is a report with `worst_case` rows (architecture.md); eps is in [0, 1] pixels.
    """
    defence = str(manifest["defence"].get("name", "none"))
    rows = _attacked((robustness or {}).get("worst_case"))
    if not rows:
        if defence == "none":
            return (
                "not measured. This model is not defended: expect changes that no eye sees (8/255 per pixel"
                " and less) to choose the answer."
            )
        return f"not measured. It was trained with the defence {defence}; no figure stands behind that here."
    broken = [row for row in rows if row["map"] <= 0.5 * row["clean_map"]]
    row = min(broken, key=lambda r: r["eps"]) if broken else max(rows, key=lambda r: r["eps"])
    figures = f"eps {255 * row['eps']:.3g}/255 ({row.get('norm', 'linf')}, {row.get('task', 'all tasks')})"
    change = f"mAP {row['clean_map']:.3f} clean, {row['map']:.3f} attacked"
    state = "not defended" if defence == "none" else f"defence {defence}"
    if broken:
        return f"{figures}: {change}; {state}."
    return f"no budget that was tried; the largest was {figures}: {change}; {state}."


def _attacked(rows: object) -> list[Mapping[str, Any]]:
    """The rows that hold the three numbers and a budget above zero."""
    if not isinstance(rows, list):
        return []
    numbers = ("eps", "map", "clean_map")
    whole = [
        r for r in rows if isinstance(r, dict) and all(isinstance(r.get(n), int | float) for n in numbers)
    ]
    return [row for row in whole if row["eps"] > 0]


def _tower(table: Mapping[str, Any] | None) -> str:
    if table is None:
        return "none"
    source = table.get("source")
    return f"{table.get('kind')} ({source})" if source else str(table.get("kind"))


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
