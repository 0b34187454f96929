#!/usr/bin/env bash
# What holds on this machine's GPU, within ten minutes: bash benchmarks/gpu_trial.sh [FOLDER]
# Runs the tests that need CUDA, then a short benchmark; FOLDER/gpu.md (runs/gpu_trial) has the table.
# With GPU_TRIAL_ON=cpu all of it runs on the CPU, at tiny sizes, to see that it works.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
[ $# -le 1 ] || { echo "usage: bash benchmarks/gpu_trial.sh [FOLDER]" >&2; exit 2; }
folder=${1:-$root/runs/gpu_trial}
python=$(find_python "$root")
mkdir -p "$folder"
folder=$(CDPATH='' cd "$folder" && pwd)
cd "$root"
export GPU_TESTS_ON=${GPU_TRIAL_ON:-cuda}
rm -f "$folder"/{tests.xml,tests.log,gpu.md} # of an earlier trial
began=$SECONDS
# A test that fails is a row of the table, and so is a time that is up.
timeout --signal=INT --kill-after=20 300 "$python" -m pytest -v -m gpu tests/test_gpu.py \
  --junitxml="$folder/tests.xml" 2>&1 | tee "$folder/tests.log" || true
left=$((560 - (SECONDS - began)))
left=$((left < 1 ? 1 : left)) # 0 would be without end
timeout --kill-after=20 "$left" "$python" benchmarks/gpu_trial.py "$folder" --seconds "$((left - 90))"
