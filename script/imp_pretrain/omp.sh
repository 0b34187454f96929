#!/usr/bin/env bash
# One-shot magnitude pruning of pre-trained weights: a ticket per density of IMP, without training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/imp_pretrain/omp.sh INIT SAVE [flags of main_imp_pretrain.py …]"
need_positions 2 "$usage" "$@"
one_shot "$root" omp "$@"
