#!/usr/bin/env bash
# Take over from the study's folder what belongs in the repository, and write the report again:
#   bash results/miniature/collect.sh RUNS
# Of each finished transfer: results, outcomes of its test, curves; the plan; two networks to test again.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash results/miniature/collect.sh RUNS" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
runs=$(cd "$1" && pwd)
for finished in "$runs"/transfer/*/folder/*/*/*/seed*/results.json; do
  from=$(dirname "$finished")
  to=$here/runs/${from#"$runs"/}
  mkdir -p "$to"
  cp "$from"/{args.json,metrics.jsonl,outcomes.safetensors,results.json} "$to"
done
for from in "$runs"/transfer/*/folder/adv/f0.1/state0/seed1; do
  [ ! -f "$from/results.json" ] || cp "$from/model_RA_best.pth.tar" "$here/runs/${from#"$runs"/}"
done
for from in "$runs"/{omp,random}/*/; do
  [ ! -d "$from" ] || { mkdir -p "$here/runs/${from#"$runs"/}" && cp "$from"{args.json,[36]-ticket.safetensors} "$_"; }
done
cp "$runs/study.json" "$here/runs"
# Where the code lay on the machine that ran is nobody's business.
find "$here/runs" -name '*.json' -exec \
  sed -i 's#/[^ "]*/\(main_[a-z_]*\.py\|results/miniature/study\.toml\)#\1#' {} +
cd "$root"
bash script/report.sh results/miniature/runs --out results/miniature/report
