#!/usr/bin/env bash
# Train on several GPUs of one or more machines.
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several machines run it on each with the same CONFIG, GPUS (per machine) and
#   NNODES       how many machines (default 1)
#   NODE_RANK    which one this is, from 0
#   MASTER_ADDR  address of the machine with rank 0
#   PORT         a port that is free there (default 29500)
# On one machine none of these is needed: torchrun takes a free port. Set PORT if it is
# older than torch 2.6 and cannot resolve the machine's name.
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
[[ ${port:-1} =~ ^[1-9][0-9]{0,4}$ ]] && [ "${port:-1}" -le 65535 ] ||
    fail "PORT '$port' is not a port; set 1 to 65535."

node_rank=0 address=127.0.0.1
if [ "$nodes" -gt 1 ]; then
    [ -n "${NODE_RANK:-}" ] || fail "NNODES=$nodes needs NODE_RANK, 0 to $((nodes - 1))."
    [ -n "${MASTER_ADDR:-}" ] || fail "NNODES=$nodes needs MASTER_ADDR, the address of rank 0."
    node_rank="$NODE_RANK" address="$MASTER_ADDR"
    if [ -z "$port" ]; then
        # The machines have to agree, so none may look for a free port of its own.
        port=29500
        echo "dist_train.sh: PORT is not set, using $port on $address" >&2
    fi
fi
if [ -n "$port" ]; then
    rendezvous=(--node_rank "$node_rank" --master_addr "$address" --master_port "$port")
else
    # A port that is looked for here could be another program's by the time it is used.
    # The address, because not every machine's name resolves.
    rendezvous=(--standalone --local_addr "$address")
fi

# mcl is found without being installed.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m torch.distributed.run \
    --nnodes "$nodes" "${rendezvous[@]}" --nproc_per_node "$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "${@:3}"
