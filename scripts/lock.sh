#!/usr/bin/env bash
# Write requirements/*.txt from pyproject.toml, for every system and Python it names; needs uv and the package index.
#   bash scripts/lock.sh                          after a change of pyproject.toml: versions that stand there stay
#   bash scripts/lock.sh --upgrade-package NAME   one package newer; --upgrade: all of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock() {  # lock EXTRAS [OPTION ...]
  local extras="$1"; shift
  # opencv-python is left out: opencv-contrib-python, which mediapipe asks for, is the same cv2 and more, and of two
  # packages that write one folder the last to be unpacked wins.
  printf 'setuptools>=77\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-package opencv-python --no-emit-index-url --no-emit-find-links \
    --constraints requirements/held.in --custom-compile-command "bash scripts/lock.sh" \
    --extra "$extras" --output-file "requirements/$extras.txt" "$@" pyproject.toml -
}
lock test "$@"
cp requirements/test.txt requirements/offline.txt  # its versions are preferred: one version of a package in both
lock offline
