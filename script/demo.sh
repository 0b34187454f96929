#!/usr/bin/env bash
# The whole pipeline, small, on real images: pre-train, find tickets, transfer them, report.
#
# About five minutes on two CPU cores. It demonstrates how everything works; it proves nothing.
# Started again, it goes on where it was stopped.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
[ $# -le 1 ] || { echo "usage: bash script/demo.sh [OUT]" >&2; exit 2; }
out=${1:-runs/demo}
use_environment "$root" requirements.txt
echo "digits 0-4 are the source task, digits 5-9 the target; everything goes into $out"
"$PYTHON" "$root/script/demo_data.py" "$out/data"
status=0
bash "$root/script/study.sh" "$root/script/study/demo.toml" --out "$out" -J "$(nproc)" || status=$?
exit "$status"
