#!/usr/bin/env bash
# Train on several GPUs of one or more machines.
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several machines run it on each with the same CONFIG, GPUS (per machine) and
#   NNODES       how many machines (default 1)
#   NODE_RANK    which one this is, from 0
#   MASTER_ADDR  address of the machine with rank 0
#   PORT         a port that is free there (default 29500; not needed if NNODES=1)
set -euo pipefail

fail() {
    echo "dist_train.sh: $1" >&2
    exit 2
}

[ $# -ge 2 ] || fail "usage: bash tools/dist_train.sh CONFIG GPUS [train.py arguments]"
config="$1" gpus="$2"
nodes="${NNODES:-1}"
[ -f "$config" ] || fail "CONFIG '$config' is not a file; give the path of a config."
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS '$gpus' is not a count; give 1 or more."
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NNODES '$nodes' is not a count; set 1 or more."

port="${PORT:-}"
if [ "$nodes" -gt 1 ]; then
    [ -n "${NODE_RANK:-}" ] || fail "NNODES=$nodes needs NODE_RANK, 0 to $((nodes - 1))."
    [ -n "${MASTER_ADDR:-}" ] || fail "NNODES=$nodes needs MASTER_ADDR, the address of rank 0."
    if [ -z "$port" ]; then
        # The machines have to agree, so none may look for a free port of its own.
        port=29500
        echo "dist_train.sh: PORT is not set, using $port on ${MASTER_ADDR}" >&2
    fi
fi
rendezvous=(
    --nnodes "$nodes"
    --node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:-127.0.0.1}"
    --master_port "$port"
)
# On one machine torchrun takes a free port itself: one that is looked for here could be
# another program's by the time it is used.
[ -n "$port" ] || rendezvous=(--standalone)

# mcl is found without being installed.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node "$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "${@:3}"
