#!/usr/bin/env bash
# All benchmarks that need a GPU, on JAX without TensorFlow: the cost of a step, then the paper's networks on CIFAR-10.
#
#   bash benchmarks/gpu.sh runs/gpu                     # time and memory of training steps
#   DATA=cifar10.npz bash benchmarks/gpu.sh runs/gpu    # then VGG-19, CONV-6, CONV-4 and CONV-2 as well
#
# You may stop it at any time, for example by `timeout -s INT 9m`, and resume with the same command: existing files are
# not measured again, and training continues from its last epoch. benchmarks/README.md explains the figures.
# Environment:
#   DATA         CIFAR-10, as --data-dir of examples/paper/train.py takes it
#   JOBS         how many trainings share the GPU (3)
#   NETWORKS     of the steps (lenet300100 conv6 vgg19)
#   VARIANTS     of the steps (plain per_connection per_value nearest)
#   NUM_VALUES   of the steps (8 64)
#   STEP_FLAGS   more flags for step_time.py (--steps 50)
#   TRAIN_FLAGS  more flags for train.py, such as "--epochs 60 --dtype-policy mixed_bfloat16"
#   PYTHON       the interpreter (python)
set -euo pipefail

mkdir -p "${1:?the folder to write: bash benchmarks/gpu.sh FOLDER}"
OUT=$(cd "$1" && pwd)
JOBS=${JOBS:-3} PYTHON=${PYTHON:-python}
read -ra networks <<<"${NETWORKS:-lenet300100 conv6 vgg19}"
read -ra variants <<<"${VARIANTS:-plain per_connection per_value nearest}"
read -ra values <<<"${NUM_VALUES:-8 64}"
read -ra step_flags <<<"${STEP_FLAGS:---steps 50}"
DATA=${DATA:+$(realpath "$DATA")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export KERAS_BACKEND=jax PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR="$OUT/compiled" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

join() { local IFS=,; echo "$*"; }

step() { # step NAME FLAGS...: one file of step_time.py
  local file="$OUT/$1.json"
  if [ -e "$file" ]; then return; fi
  "$PYTHON" benchmarks/step_time.py --device-loop --out "$file" "${step_flags[@]}" "${@:2}"
}

for network in "${networks[@]}"; do
  step "time-$network" --networks "$network" \
    --variants "$(join "${variants[@]}")" --num-values "$(join "${values[@]}")"
done
for network in "${networks[@]}"; do
  for variant in "${variants[@]}"; do
    for k in "${values[@]}"; do # alone in its process, for the device's own count of memory
      if [ "$variant" = plain ] && [ "$k" != "${values[0]}" ]; then continue; fi
      step "memory-$network-$variant-$k" --networks "$network" --variants "$variant" --num-values "$k" \
        --rounds 1 --copy-mb 0
    done
  done
done
if [ -z "$DATA" ]; then exit; fi

side_by_side() { # runs the lines "NAME SCRIPT FLAGS..." of standard input, JOBS at a time, each with a log
  export OUT DATA PYTHON
  export XLA_PYTHON_CLIENT_MEM_FRACTION="0.$(printf %02d $((92 / JOBS)))"
  # shellcheck disable=SC2016
  xargs -d '\n' -P "$JOBS" -n 1 bash -c 'eval "set -- $1"; echo "$1: starts"
    "$PYTHON" "examples/paper/$2" "${@:3}" --data-dir "$DATA" --results "$OUT/results.csv" --verbose 2 \
      >>"$OUT/$1.log" 2>&1 && echo "$1: finished" || { echo "$1: failed or stopped, see its log"; exit 1; }' -
}

run() { echo "$1 train.py --run-dir \"\$OUT/$1\" --dataset cifar10 ${*:2} ${TRAIN_FLAGS:-}"; }

status=0
for network in vgg19 conv6 conv4 conv2; do
  run "$network-gs-k8" --network "$network"
  run "$network-learned" --network "$network" --method learned
done | side_by_side || status=1
for network in conv6 conv4 conv2; do
  if [ -e "$OUT/$network-gs-k8/results.json" ]; then
    echo "$network-finetuned finetune.py \"\$OUT/$network-gs-k8\" --from best --out \"\$OUT/$network-finetuned\""
  fi
  run "$network-gs-k2" --network "$network" --num-values 2
  run "$network-gs-k64" --network "$network" --num-values 64
  run "$network-ps-k8" --network "$network" --selection probabilistic
done | side_by_side || status=1
exit "$status"
