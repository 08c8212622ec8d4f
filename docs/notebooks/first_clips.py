# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # First clips
# A photograph in the public domain (astronaut Eileen Collins, NASA; it ships with scikit-image), three requests, and
# what a clip holds.

# %%
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import skimage.io

import mesynth
from mesynth.store.shards import read_flow, read_frames

skimage.io.imsave("photo.png", skimage.data.astronaut())
corpus = mesynth.generate(
    "photo.png", aus=["4=0.6", "6=0.5,12=0.5", "L14=0.8"], model="landmark-mean", fps=60, duration=0.4, out="first"
)
print(len(corpus), "clips;", corpus.row(0).au_text, "was made by", corpus.row(0).provenance.generator)

# %% [markdown]
# Onset, apex, their difference, and the flow that the frames were made from: exact, not estimated.

# %%
figure, axes = plt.subplots(len(corpus), 4, figsize=(10, 2.6 * len(corpus)))
for row, line in zip(corpus, axes, strict=True):
    frames = read_frames(corpus.root, row)  # [T,H,W,3] uint8
    flow = read_flow(corpus.root, row)  # [2,H,W] float32, pixels, x right and y down
    onset, apex = frames[0], frames[row.apex_index]
    shown = [onset, apex, np.clip(128 + 4 * (apex.astype(int) - onset), 0, 255), np.hypot(*flow)]
    for axis, picture, title in zip(line, shown, (row.au_text, "apex", "difference x 4", "flow, pixels"), strict=True):
        axis.imshow(picture, cmap="magma")
        axis.set_title(title)
        axis.axis("off")
figure.tight_layout()
figure.savefig("first.png")

# %% [markdown]
# The same seed gives the same bytes; an intensity of 0 gives the picture back.

# %%
again = mesynth.generate("photo.png", aus="12=0", model="landmark-mean", fps=60, duration=0.2, out="still")
still = read_frames(again.root, again.row(0))
assert (still == still[:1]).all()
