#!/usr/bin/env bash
# Transfer a ticket (or, without one, the dense network) to SVHN by adversarial training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/train_downstream/adv_svhn.sh INIT SAVE [TICKET] [flags of main_downstream.py …]"
need_positions 2 "$usage" "$@"
transfer "$root" adv svhn "$@"
