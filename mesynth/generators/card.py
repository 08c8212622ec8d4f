"""Model cards of saved generators, written from their facts alone: nothing in a card is typed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 12


_GENERATE = 'sample, warnings = load_pipeline("this folder").generate(face, aus, profile, n_frames=65, fps=200)'


def model_card(
    facts: Mapping[str, Any],
    *,
    title: str,
    what: str,
    limits: str,
    parameters: Mapping[str, int],
    use: str = _GENERATE,
) -> str:
    """Markdown: what it is and is not, whom it learned from, licences, figures, how to use it (``use``: Python).

    ``facts`` has the keys of :class:`mesynth.generators.pipeline.GeneratorFacts` that training knows;
    ``parameters`` are counted by network. ``what`` and ``limits`` are the family's own paragraphs.
    """
    seen = list(facts["subjects_seen"])
    shown = ", ".join(seen[:_SHOWN]) + (f" and {len(seen) - _SHOWN} more (mesynth.json)" if len(seen) > _SHOWN else "")
    figures = "\n".join(f"| {name} | {float(value):.4g} |" for name, value in sorted(facts["figures"].items()))
    sizes = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    return f"""# {title}

{what.strip()}

**Limits.** {limits.strip()}

## Data

{len(seen)} subjects: {shown or "none"}.
Licences of the data: {"; ".join(facts["licences"]) or "none"}. A clip made with this generator carries these subjects
as seen; a recognizer's fold that holds one of them out refuses the clip.

## Training

Family `{facts["name"]}`, {facts["images"]:,} pairs, seed {facts["seed"]}, mesynth {facts["code_version"]}.
Parameters: {sizes}. Data `{facts["data_hash"]}`, configuration `{facts["config_hash"]}`.

## Figures on validation pairs

| measure | value |
|---|---|
{figures or "| none | |"}

## Use

```python
from mesynth.generators.pipeline import load_pipeline

{use}
```
"""
