#!/usr/bin/env bash
# Everything CI runs: environment, installation, lint, types, import contracts, tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "${VENV:-.venv-test}" test
bin="$(dirname "$python")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# The report is tested in a real browser: Debian's, if it can be had.
has_chromium() { [ -n "${CHROMIUM:-}" ] || command -v chromium chromium-browser google-chrome >/dev/null; }
if ! has_chromium && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || true
fi
marks=()
has_chromium || { marks=(-m "not browser"); echo "No Chromium here: the browser tests are left out."; }

echo "== ruff";          "$bin/ruff" check .; "$bin/ruff" format --check .  # not joined by &&, which would hide a failure
echo "== mypy";          "$bin/mypy"
echo "== import-linter"; "$bin/lint-imports"
echo "== pytest";        "$python" -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile --durations=10 "${marks[@]}" "$@"
