#!/usr/bin/env bash
# The path that the released code's README names; the same as script/train_downstream/std.sh.
set -euo pipefail
exec bash "$(dirname "$0")/train_downstream/std.sh" "$@"
