#!/usr/bin/env bash
# Find tickets by IMP with fast adversarial training (one step of 10/255) on ImageNet: the paper's recipe,
# on all visible GPUs (--nproc N or --gpu I: fewer), at most 256 images per pass (--micro_batch N).
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/imp_pretrain/imp_fast.sh INIT SAVE DATA [flags of main_imp_pretrain.py …]"
need_positions 3 "$usage" "$@"
init=$1 save=$2 data=$3
shift 3
exec "$(find_python "$root")" "$root/main_imp_pretrain.py" "$data" --multiprocessing_distributed \
  --mode adv --tag fast --train_step 1 --train_gamma 10/255 --init "$init" --save_dir "$save" "$@"
