#!/usr/bin/env bash
# Set everything up, then pre-train, export and fine-tune on this machine.
# Usage: bash tools/quickstart.sh [--cutouts DIR]; see projects/quickstart/README.md
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/tools/setup_env.sh" --host default
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python -m projects.quickstart "$@"
