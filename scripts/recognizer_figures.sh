#!/usr/bin/env bash
# The recognizer's figures, from nothing: a rendered database of 68 people as published flow images, every quick model
# under leave-one-subject-out, and what clips of other faces (made by a generator, another camera, another estimator)
# add when few people are at hand. Rendered people say how the road behaves, not how well a face in a laboratory is read.
#   bash scripts/recognizer_figures.sh OUT
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?give a folder for the results, for example: bash scripts/recognizer_figures.sh runs/recognizers}
mkdir -p "$out"
cd "$here"
python=$(command -v python || command -v python3)
mesynth() { "$python" -m mesynth "$@"; }
recognizer() { "$python" -m recognizer "$@"; }

# The database: as a release, as aligned crops with TV-L1 flow, and as 28-pixel flow images like those of MEGC 2019.
mesynth render --subjects 68 --clips 7 --size 160 --seed 11 --out "$out/release"
mesynth prepare casme2 --root "$out/release" --size 112 --out "$out/real"
mesynth export "$out/real" --to flow-folders --no-train --out "$out/folders"
mesynth prepare flow_folders --root "$out/folders/three_norm_u_v_os" --part rendered --out "$out/images"

# Every quick model, one run each.
for model in lda svm region_attention capsule_graph; do
    recognizer loso "configs/recognizer/$model.yaml" --real "$out/images" --out "$out/loso/$model"
done

# Clips of other faces, by the default trained generator, with head motion, noise and blinks; flow by another estimator.
mesynth render --layout faces --subjects 60 --size 160 --seed 12 --out "$out/faces"
mesynth generate --model motion_gan --faces "$out/faces" --emotion negative,positive,surprise --count 1500 \
    --noise 3 --head-motion 1 --blink 0.2 --style 1 --seed 13 --out "$out/made"
mesynth prepare corpus --root "$out/made" --landmarker stored --method farneback --no-frames --out "$out/made-flow"
recognizer ablate configs/ablation/few_subjects.yaml "ratios=[0,1,2]" "modes=[pool,prior,fuse]" "seeds=[0,1,2,3,4]" \
    --real "$out/real" --synthetic "$out/made-flow" --out "$out/few"

# STSTNet with its published 800 epochs: some twenty minutes on two cores.
recognizer loso configs/recognizer/ststnet.yaml --real "$out/images" --out "$out/loso/ststnet"
