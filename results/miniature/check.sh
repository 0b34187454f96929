#!/usr/bin/env bash
# Test two transferred networks of the study again, on the images in DIR (README.md says how to make
# them):  bash results/miniature/check.sh DIR
# On the machine that recorded them the outcomes are equal bit by bit. Elsewhere at least 99.9 % of
# the clean ones are, and RA is within 0.5 points. About 25 minutes on one core each.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash results/miniature/check.sh DIR" >&2; exit 2; }
[ -d "$1/test" ] || { echo "error: $1: no folder of images with a test/ (README.md here says how to make it)" >&2; exit 2; }
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
data=$(CDPATH='' cd "$1" && pwd)
source "$root/script/env.sh"
python=$(find_python "$root")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
for network in "$here"/runs/transfer/*/folder/adv/f0.1/state0/seed1/model_RA_best.pth.tar; do
  [ -f "$network" ] || { echo "error: no network of a transfer in $here/runs" >&2; exit 2; }
  run=$(dirname "$network")
  side=${run#"$here"/runs/transfer/}
  side=${side%%/*}
  echo "$side: $run"
  "$python" "$root/main_downstream.py" --evaluate --resume "$network" --dataset folder --data "$data" \
    --threads 1 -j 0 --eval_batch_size 256 --seed 1 --save_dir "$out/$side"
  "$python" "$here/compare.py" "$run/outcomes.safetensors" "$out/$side"/eval.outcomes.safetensors || status=1
done
exit $status
