# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Your own data
# A database is prepared once: faces aligned, flow estimated, one manifest. Here a rendered database in CASME II's
# layout stands in for a licensed one; with yours, only the folder changes.

# %%
import torch

import mesynth
from mesynth.data import ClipDataset, clip_loader

mesynth.render("database", subjects=3, clips=3, size=128, fps=30)
real = mesynth.prepare("casme2", "database", out="prepared")
faces = mesynth.render("faces", layout="faces", subjects=3)
made = mesynth.generate(faces, emotion=["negative", "positive", "surprise"], count=9, size=64, fps=30, out="made")
print(len(real), "real clips of", len(set(real.subject_keys())), "people,", len(made), "synthetic ones")

# %% [markdown]
# A fold leaves out whoever it tests on: their clips, and every clip whose generator learned from them.

# %%
held_out = real.subject_keys()[0]
train = ClipDataset([real, made], parts=["flow"], size=28, exclude_subjects=[held_out], labelled=True)
print(len(train), "clips to learn from,", train.excluded, "left out, classes", train.classes)

# %%
network = torch.nn.Sequential(
    torch.nn.Conv2d(2, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
    torch.nn.Linear(128, len(train.classes)),
)  # fmt: skip
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
for batch in clip_loader(train, batch_size=4, shuffle=True, seed=0):
    loss = torch.nn.functional.cross_entropy(network(batch["flow"]), batch["label"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("flow", tuple(batch["flow"].shape), "loss", round(loss.item(), 3))
