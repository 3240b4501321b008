#!/usr/bin/env bash
# Lint and test. Usage: bash tools/test.sh [--host default|openmmlab] [pytest args]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

chosen=default
if [ "${1:-}" = --host ]; then
    chosen="${2:-}"
    shift $(($# < 2 ? 1 : 2))
fi

# shellcheck source=tools/setup_env.sh
. tools/setup_env.sh --host "$chosen"

python - "$chosen" <<'PYTHON'
import sys
from importlib import import_module

names = ["torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmpretrain", "numpy"]
versions = [f"{name} {import_module(name).__version__}" for name in names]
print(f"host {sys.argv[1]}: Python {sys.version.split()[0]}, {', '.join(versions)}")
PYTHON

# Threads that wait by spinning take the cores from the processes tests start.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
# Models this small gain nothing by threads: whole files run side by side instead.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
arguments=("$@")
[ $# -gt 0 ] || arguments=(--numprocesses auto --maxprocesses 4 --dist loadfile)
python -m ruff check .
python -m ruff format --check --quiet .
marked=()
[ "$chosen" = default ] || marked=(-m hosts)
exec python -m pytest --durations=10 ${marked[@]+"${marked[@]}"} "${arguments[@]}"
