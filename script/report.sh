#!/usr/bin/env bash
# Judge finished runs: verdict, figures, a page; or look at one ticket (--inspect); see --help.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/report.sh RUNS [flags], or bash script/report.sh --inspect TICKET"
[ $# -ge 1 ] || { echo "$usage" >&2; exit 2; }
run_package "$root" report "$@"
