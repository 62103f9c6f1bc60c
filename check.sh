#!/usr/bin/env bash
# All that must hold before a change lands: lint, the tests, and a tiny run of the whole paper that keeps its stages.
set -euo pipefail
cd "$(dirname "$0")"
ruff check .
ruff format --check .
pytest
out=$(mktemp -d)
python reproduce.py --tiny --out "$out/run"
python reproduce.py --tiny --out "$out/run" | grep "report: kept"
test -s "$out/run/report.html"
rm -r "$out"
