#!/usr/bin/env bash
# Install what is missing, then lint, type-check and test, a process on each core. Further arguments
# go to pytest.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
use_environment "$root" requirements-dev.txt
cd "$root"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
mapfile -t scripts < <(git ls-files '*.sh' '*.sbatch' .ci/run 2>/dev/null || find script -name '*.sh')
"$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')")/shellcheck" -x "${scripts[@]}"
"$PYTHON" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
