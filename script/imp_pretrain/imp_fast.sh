#!/usr/bin/env bash
# Find tickets by IMP with fast adversarial training (one step of 10/255) on ImageNet: the paper's recipe,
# on all visible GPUs (--nproc N or --gpu I: fewer), at most 256 images per pass (--micro_batch N).
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/imp_pretrain/imp_fast.sh INIT SAVE DATA [flags of main_imp_pretrain.py …]"
need_positions 3 "$usage" "$@"
search "$root" adv fast "${@:1:3}" --train_step 1 --train_gamma 10/255 "${@:4}"
