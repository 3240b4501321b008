#!/usr/bin/env bash
# Set everything up, then pre-train, export and fine-tune on this machine.
# Usage: bash tools/quickstart.sh [--cutouts DIR]; see tools/quickstart.py
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/setup_env.sh" --host default
exec python "$here/quickstart.py" "$@"
