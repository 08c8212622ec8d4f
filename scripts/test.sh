#!/usr/bin/env bash
# Everything CI runs: environment, installation, lint, types, import contracts, tests. Every part runs whatever became
# of the one before; the summary names those that failed. Arguments go to pytest: scripts/test.sh -k manifest
#   MESYNTH_VERSIONS=newest bash scripts/test.sh   what the newest releases break (lowest: do the lower bounds hold?)
versions="${MESYNTH_VERSIONS:-locked}"
[ "$versions" = locked ] && folder=.venv-test || folder=".venv-$versions"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Every process that a test starts would compile again what it imports.
unset PYTHONDONTWRITEBYTECODE

# The report is tested in a real browser: Debian's, if it can be had; it is fetched beside the rest.
has_chromium() { [ -n "${CHROMIUM:-}" ] || command -v chromium chromium-browser google-chrome >/dev/null; }
if ! has_chromium && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 </dev/null & fetching=$!
fi
source scripts/setup.sh "${VENV:-$folder}" test
bin="$(dirname "$python")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -z "${fetching:-}" ] || wait "$fetching" || true
marks=()
has_chromium || { marks=(-m "not browser"); echo "No Chromium here: the browser tests are left out."; }

summary=(); status=0
part() {  # part NAME COMMAND ...
  local name="$1" code=0; shift
  echo "== $name"
  "$@" || code=$?
  if [ "$code" = 0 ]; then summary+=("$name: passed"); else summary+=("$name: FAILED (exit code $code)"); status=1; fi
}
if [ "$versions" != lowest ]; then  # the tools' own words change from version to version: of the oldest, only tests count
  said="$(mktemp)"
  "$bin/mypy" >"$said" 2>&1 & types=$!  # has one core for a minute, and tells of it at the end
  trap 'kill "$types" 2>/dev/null || true; rm -f "$said"' EXIT
  part "ruff check" "$bin/ruff" check .
  part "ruff format" "$bin/ruff" format --check .
  part import-linter "$bin/lint-imports"
fi
part pytest "$python" -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile --durations=10 ${marks[@]+"${marks[@]}"} "$@"
if [ "$versions" != lowest ]; then
  told() { local code=0; wait "$types" || code=$?; cat "$said"; return "$code"; }
  part mypy told
fi

if [ "$versions" != locked ]; then
  echo "== versions other than those in requirements/test.txt"
  sed -n 's/^\([a-z0-9._-]*\)==\([^ ]*\).*/\1 \2/p' requirements/test.txt | "$python" -c '
import importlib.metadata, sys
for name, locked in map(str.split, sys.stdin):
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        continue  # of another system
    if found != locked:
        print(f"{name} {found} (locked: {locked})")'
fi
echo "== summary"; printf '%s\n' "${summary[@]}"
exit "$status"
