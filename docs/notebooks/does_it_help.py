# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Does synthetic data help?
# A study asks it as a paper has to: folds by subject, controls, intervals paired over subjects. This one is too small
# to show anything; `recognizer study real=[prepared/casme2]` asks it of your database.

# %%
from pathlib import Path

import recognizer

settings = ["generators=[motion-prior]", "seeds=[0]", "resamples=200", "embedded.subjects=3", "embedded.clips=3"]
result = recognizer.run_study(recognizer.load_study("study/quick", settings), "study")
print(result.answer)

# %% [markdown]
# Beside the page: tables for LaTeX, figures, the methods paragraph and its references.

# %%
print((Path("study") / "tables" / "comparisons.tex").read_text())
print((Path("study") / "methods.md").read_text())

# %% [markdown]
# One recognizer under leave-one-subject-out on the study's real clips alone: what all others are held against.

# %%
alone = recognizer.loso("study/prepared")
print(alone.model, alone.protocol, alone.uf1)
