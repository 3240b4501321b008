#!/usr/bin/env bash
# Train on a Slurm cluster, one process per GPU.
#
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [train.py arguments]
#
#   GPUS           processes in all (default 8)
#   GPUS_PER_NODE  of them per machine (default 8, or GPUS if that is less)
#   CPUS_PER_TASK  cores per process (default 5)
#   SRUN_ARGS      more arguments of srun, divided at spaces
set -euo pipefail

fail() {
    echo "slurm_train.sh: $1" >&2
    exit 2
}

[ $# -ge 4 ] || fail "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR \
[train.py arguments]"
partition="$1" job_name="$2" config="$3" work_dir="$4"
[ -f "$config" ] || fail "CONFIG '$config' is not a file; give the path of a config."

gpus="${GPUS:-8}"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS '$gpus' is not a count; set 1 or more."
gpus_per_node="${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}"
read -r -a srun_args <<<"${SRUN_ARGS:-}"

# mcl is found without being installed.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec srun \
    --partition "$partition" \
    --job-name "$job_name" \
    --gres "gpu:$gpus_per_node" \
    --ntasks "$gpus" \
    --ntasks-per-node "$gpus_per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit 1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    python -u "$root/tools/train.py" "$config" \
    --work-dir "$work_dir" --launcher slurm "${@:5}"
