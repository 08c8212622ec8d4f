#!/usr/bin/env bash
# Make a virtual environment and install mesynth into it: setup.sh FOLDER EXTRAS
# Sourced by quickstart.sh and test.sh; leaves $python pointing into the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${1:-.venv}"; extras="${2:-offline}"
base="${PYTHON:-python3}"
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "mesynth needs Python 3.11 or newer; set PYTHON to one (found: $("$base" --version))" >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$base" -m venv "$venv"
python="$venv/bin/python"
stamp="$venv/.installed-$extras"
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "Installing mesynth[$extras] into $venv (a few minutes the first time) ..."
  "$python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  touch "$stamp"
fi
