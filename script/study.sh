#!/usr/bin/env bash
# Run a study, the grid of pre-trainings, tickets and transfers that a TOML file names; see --help.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
usage="usage: bash script/study.sh CONFIG [--dry_run | --slurm] [-J N] [--out DIR] [--only REGEX]"
[ $# -ge 1 ] || { echo "$usage" >&2; exit 2; }
run_package "$root" study "$@"
