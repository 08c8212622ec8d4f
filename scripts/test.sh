#!/usr/bin/env bash
# Everything CI runs: environment, installation, lint, types, import contracts, tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "${VENV:-.venv-test}" test
bin="$(dirname "$python")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
echo "== ruff";         "$bin/ruff" check . && "$bin/ruff" format --check .
echo "== mypy";         "$bin/mypy"
echo "== import-linter"; "$bin/lint-imports"
echo "== pytest";       "$python" -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile --durations=10 "$@"
