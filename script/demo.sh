#!/usr/bin/env bash
# The whole pipeline, small, on real images: pre-train, find tickets, transfer them, report.
# Started again, it goes on where it was stopped.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
[[ $# -le 1 && ${1:-} != -* ]] || { echo "usage: bash script/demo.sh [OUT]   (runs/demo)" >&2; exit 2; }
out=${1:-runs/demo}
use_environment "$root" requirements.txt
cat <<EOF
demo: find tickets on handwritten digits 0-4 and transfer them to digits 5-9, about 6 minutes on two
CPU cores. A small network, small images and attacks that fit them: it demonstrates, it does not prove.
Everything goes into $out; started again, the demo goes on where it was stopped.
EOF
"$PYTHON" "$root/script/demo_data.py" "$out/data"
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
status=0
bash "$root/script/study.sh" "$root/script/study/demo.toml" --out "$out" \
  -J "$((cores < 4 ? cores : 4))" || status=$?
if [ "$status" -lt 128 ] && [ -e "$out/report/report.html" ]; then
  echo
  echo "This demonstrates the pipeline; on so few small images it proves nothing about tickets."
  printf '%s\n' "$out"/report/{report.html,accuracy-*.png,results.csv}
fi
exit "$status"
