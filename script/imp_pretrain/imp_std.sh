#!/usr/bin/env bash
# Find tickets by IMP with standard training on ImageNet: the paper's recipe,
# on all visible GPUs (--nproc N or --gpu I: fewer), at most 256 images per pass (--micro_batch N).
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/imp_pretrain/imp_std.sh INIT SAVE DATA [flags of main_imp_pretrain.py …]"
need_positions 3 "$usage" "$@"
search "$root" std std "$@"
