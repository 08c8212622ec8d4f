#!/usr/bin/env bash
# Make a virtual environment and install mesynth into it: setup.sh FOLDER EXTRAS, with the extras offline or test.
# Sourced by quickstart.sh and test.sh; leaves $python pointing into the environment. docs/install.md says more of:
#   MESYNTH_VERSIONS=locked|newest|lowest   the versions in requirements/, or what pyproject.toml allows at either end
#   MESYNTH_TORCH=own                       keep the torch and torchvision that the environment has (a CPU build, ROCm)
#   MESYNTH_INSTALLER=pip|uv                uv where it is on the path, unless this says pip
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${1:-.venv}"; extras="${2:-offline}"
versions="${MESYNTH_VERSIONS:-locked}"; torch="${MESYNTH_TORCH:-locked}"
installer="${MESYNTH_INSTALLER:-$(command -v uv >/dev/null && echo uv || echo pip)}"
refuse() { echo "$1" >&2; exit 2; }
case "$versions/$torch/$installer" in
  */pip | */uv) ;;
  *) refuse "MESYNTH_INSTALLER=$installer is neither pip nor uv";;
esac
case "$versions/$torch" in
  locked/locked | locked/own | newest/locked) ;;
  lowest/locked) [ "$installer" = uv ] || refuse "MESYNTH_VERSIONS=lowest needs uv on the path (pip install uv)";;
  locked/*) refuse "MESYNTH_TORCH=$torch is unknown; the only value is own";;
  newest/* | lowest/*) refuse "MESYNTH_TORCH=$torch goes with MESYNTH_VERSIONS=locked only";;
  *) refuse "MESYNTH_VERSIONS=$versions is none of locked, newest, lowest";;
esac
base="${PYTHON:-python3}"
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  refuse "mesynth needs Python 3.11 or newer; set PYTHON to one (found: $("$base" --version))"
[ -x "$venv/bin/python" ] || "$base" -m venv "$venv"
python="$venv/bin/python"

# pip compiles all 23,000 files of an environment, a minute's work; tests import a third and compile that themselves.
lazily=""; [ "$extras" != test ] || lazily=--no-compile

install() {
  if [ "$installer" = uv ]; then uv pip install --quiet --python "$python" "$@"
  else "$python" -m pip install --quiet ${lazily:+"$lazily"} --disable-pip-version-check "$@"; fi
}
# The entries of the lock whose names match (1) or do not match (0): pick REGEX 1|0
pick() {
  awk -v name="^($1)==" -v wanted="$2" '/^[^ #]/ { on = (($0 ~ name) == wanted) } on' "requirements/$extras.txt"
}

# What the environment was made from, byte for byte: a lock that changes is installed again, one that is touched is not.
stamp="$venv/.installed-$extras"
state="$(cat pyproject.toml "requirements/$extras.txt" | cksum) $versions $torch"
if [ "$versions" != locked ] || [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$state" ]; then
  echo "Installing mesynth[$extras] into $venv with $installer, $versions versions (a few minutes the first time) ..."
  rm -f "$stamp"
  case "$versions" in
    locked)
      skip="-"
      if [ "$torch" = own ]; then
        "$python" -c 'import torch, torchvision' 2>/dev/null ||
          refuse "MESYNTH_TORCH=own: no torch and torchvision to be imported in $venv yet; docs/install.md says how"
        skip="torch|torchvision|triton|nvidia-.*|cuda-.*"
      fi
      # Without isolation, what comes as source is built by the locked setuptools too; so that has to be there first.
      pick setuptools 1 >"$venv/lock-build.txt"; pick "$skip" 0 >"$venv/lock.txt"
      install --require-hashes --no-deps -r "$venv/lock-build.txt"
      install --require-hashes --no-deps --no-build-isolation -r "$venv/lock.txt"
      install --no-deps --no-build-isolation --editable .;;
    newest)
      eager=(--upgrade); [ "$installer" = uv ] || eager+=(--upgrade-strategy eager)
      install "${eager[@]}" "setuptools>=77" --editable ".[$extras]";;
    lowest)
      install --resolution lowest-direct --editable ".[$extras]" ;;
  esac
  # Two packages unpack a cv2 folder, and dependencies ask for both: the one with more in it has to come last.
  [ "$versions" = locked ] || install --no-deps --force-reinstall opencv-contrib-python
  echo "$state" >"$stamp"
fi
