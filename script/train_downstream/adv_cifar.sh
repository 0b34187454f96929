#!/usr/bin/env bash
# Transfer a ticket (or, without one, the dense network) to CIFAR-10/100 by adversarial training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/train_downstream/adv_cifar.sh DATASET INIT SAVE [TICKET] [flags of main_downstream.py …]"
need_positions 3 "$usage" "$@"
transfer "$root" adv "$@"
