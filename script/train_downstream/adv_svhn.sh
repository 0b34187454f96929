#!/usr/bin/env bash
# Transfer a ticket (or, without one, the dense network) to SVHN by adversarial training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/train_downstream/adv_svhn.sh INIT SAVE [TICKET] [flags of main_downstream.py …]"
need_positions 2 "$usage" "$@"
init=$1 save=$2
shift 2
if [ $# -ge 1 ] && [[ $1 != -* ]]; then
  ticket=$1
  shift
  set -- --tickets_file "$ticket" "$@"
fi
exec "$(find_python "$root")" "$root/main_downstream.py" \
  --mode adv --dataset svhn --init "$init" --save_dir "$save" "$@"
