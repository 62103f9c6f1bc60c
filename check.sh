#!/usr/bin/env bash
# All that must hold before a change lands: lint, the tests, and a tiny run of the whole paper that keeps its stages.
set -euo pipefail
cd "$(dirname "$0")"
paper=(train_sft.py train_rm.py train_ppo.py minirlhf/*.py)  # in lines of at most 100 characters
ruff check .
ruff format --check .
ruff check --line-length 100 "${paper[@]}"
ruff format --check --line-length 100 "${paper[@]}"
pytest -n auto --dist loadfile
out=$(mktemp -d)
python reproduce.py --tiny --out "$out/run"
python reproduce.py --tiny --out "$out/run" | grep "report: kept"
test -s "$out/run/report.html"
rm -r "$out"
