#!/usr/bin/env bash
# Transfer a ticket (or, without one, the dense network) to any data set by standard training.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/../.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/train_downstream/std.sh DATASET INIT SAVE [TICKET] [flags of main_downstream.py …]"
need_positions 3 "$usage" "$@"
transfer "$root" std "$@"
