#!/usr/bin/env bash
# From a clean machine to a judged corpus: environment, installation, the whole road, report.html.
# Options are passed on: scripts/quickstart.sh --out DIR --seed 1
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "${VENV:-.venv}" offline
exec "$python" -m mesynth quickstart "$@"
