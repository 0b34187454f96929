#!/usr/bin/env bash
# Transfer a ticket (or, without one, the dense network) to any data set by standard training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/train_downstream/std.sh DATASET INIT SAVE [TICKET] [flags of main_downstream.py …]"
need_positions 3 "$usage" "$@"
dataset=$1 init=$2 save=$3
shift 3
if [ $# -ge 1 ] && [[ $1 != -* ]]; then
  ticket=$1
  shift
  set -- --tickets_file "$ticket" "$@"
fi
exec "$(find_python "$root")" "$root/main_downstream.py" \
  --mode std --dataset "$dataset" --init "$init" --save_dir "$save" "$@"
