#!/usr/bin/env bash
# More of what the tests try: damaged bytes, failing writes, hostile files. By hand, a few minutes.
set -euo pipefail
[[ $# -eq 0 ]] || { echo "usage: bash tests/soak.sh" >&2; exit 2; }
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
cd "$root"
OMP_NUM_THREADS=1 exec "$(find_python "$root")" tests/soak.py
