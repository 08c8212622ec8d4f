"""The judge's model card, written by the training run from its own figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mesynth.facs import AU_CODES, AU_NAMES
from mesynth.quality.judge import TRUSTED_ICC, AUJudge

if TYPE_CHECKING:
    from mesynth.quality.judge_train import JudgeConfig


def judge_card(judge: AUJudge, config: JudgeConfig, neutral: np.ndarray) -> str:
    """Markdown card. ``neutral`` [N,K,2]: what the judge answers on test pairs without any AU."""
    p, rows = config.pairs, []
    for code in AU_CODES:
        f = judge.meta.figures[code]
        mark = "yes" if code in judge.trusted else "no"
        rows.append(
            f"| {code} | {AU_NAMES[code]} | {f.mae:.2f} | {f.icc:.2f} | {f.pearson:.2f} | {f.slope:.2f} | {mark} |"
        )
    first, last = min(judge.meta.subjects_seen), max(judge.meta.subjects_seen)
    leak = 5 * float(neutral.mean()) if len(neutral) else 0.0
    sees = "flow and luma difference" if judge.meta.channels == 3 else "flow"
    table = "\n".join(rows)
    kinds = (
        f"{p.neutral:.0%} of the pairs show no AU, {p.emotional:.0%} an emotion's AUs, the others one to four AUs at\n"
        f"random, a third of them one-sided; {p.blink:.0%} have a blink; all have head movement, sensor noise and\n"
        "landmark error."
    )
    if config.style:
        kinds += (
            f" While the judge learns, flows are smoothly shifted and turned (style {config.style:g}), so that it\n"
            "does not depend on one head's exact fields."
        )
    return f"""# AU judge

Reads action unit intensities off the motion between an onset and a later frame of one clip.
Input: TV-L1 flow of the aligned 128-pixel crop, averaged to 32x32 ({sees}). Output: 25 AUs x (L, R) in [0, 1].
A ridge regression plus a small convolutional network without biases: no motion gives exactly 0.

**What it knows.** It was trained on this project's rendered heads only, with the AUs they were rendered
with. It knows this head's idea of FACS; no human coder took part, and on real faces it is unvalidated. The
motion prior takes its fields from the same meshes, so agreement between the two shows that the motion asked
for arrives in the frames, and not that a FACS coder would agree.

## Data and command

`python -m mesynth.quality.judge_train configs/quality/judge.yaml --out DIR`, then copy `judge.safetensors` and
`judge.md` into `mesynth/quality/data/`. {p.train} rendered people to learn from, {p.validation} to calibrate
the slope, {p.test} for the figures below; {p.pairs} onset-apex pairs each. Head seeds {first} to {last}; no other
part of the project renders these people. {kinds}
Seeds: data {p.seed}, training {config.seed}. Weights sha256 (tensors): `{judge.meta.weights_sha256}`.

## Figures on {p.test} people never used ({p.test * p.pairs} pairs)

MAE on the 0-5 scale; ICC(3,1), Pearson and slope of judged on true, over both sides. Headline figures of a
report use the AUs with ICC >= {TRUSTED_ICC:g}. Pairs without any AU are judged {leak:.3f} on the 0-5 scale on average.

| AU | name | MAE | ICC(3,1) | r | slope | trusted |
|---|---|---|---|---|---|---|
{table}

AU 43 and 45 are one lid closure and AU 26 and 27 one jaw opening; the judge gives both names the value of what
is visible. AU 16, 23 and 25 move the lips in ways other AUs do too, which is why they are weak.
"""
