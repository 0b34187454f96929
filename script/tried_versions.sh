#!/usr/bin/env bash
# Run the tests on versions of PyTorch, each in an environment of its own, and print one line each.
#
# VERSION is one of PyTorch's (2.4.1), or `lowest`: every package at its bound in the requirements.
# $PYTHON makes the environments. One takes 3 to 7 GB in FOLDER while it is tried; its log stays.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
need_positions 2 \
  "usage: bash script/tried_versions.sh FOLDER VERSION... [-- PYTEST ARGUMENTS]" "$@"
python=${PYTHON:-python3}
unset PYTHON # the scripts that are tested shall find that of the environment
mkdir -p "$1"
folder=$(CDPATH='' cd "$1" && pwd)
shift
versions=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  versions+=("$1")
  shift
done
[ $# -eq 0 ] || shift # the --

# Print what pip is held to.
constraints() {
  if [ "$1" = lowest ]; then
    sed -n 's/>=/==/p' "$root/requirements.txt" "$root/requirements-extra.txt"
  else
    echo "torch==$1"
  fi
}

# Install and test one version. (Called as a condition, where `set -e` is off.)
try() {
  local version=$1 log=$folder/$1.log environment=$folder/$1 started status=0
  shift
  "$python" -m venv --clear "$environment" > "$log" 2>&1 || return
  constraints "$version" > "$environment/constraints.txt"
  "$environment/bin/python" -m pip install --disable-pip-version-check \
    -r "$root/requirements-dev.txt" -c "$environment/constraints.txt" >> "$log" 2>&1 || return
  started=$SECONDS
  (cd "$root" && VIRTUAL_ENV=$environment PATH=$environment/bin:$PATH \
    python -m pytest -p no:cacheprovider "$@") >> "$log" 2>&1 || status=$?
  "$environment/bin/python" - "$log" "$((SECONDS - started))" <<'END'
import platform, re, sys
from importlib.metadata import version

had = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
last = open(sys.argv[1], errors="replace").read().splitlines()[-1]
counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last) or ["no test ran"]
minutes = f"{int(sys.argv[2]) / 60:.0f} minutes"
print(f"{had}, Python {platform.python_version()}:", ", ".join([*counts, minutes]))
END
  return "$status"
}

failed=0
for version in "${versions[@]}"; do
  try "$version" "$@" || { echo "$version: see $folder/$version.log" >&2; failed=1; }
  rm -rf "${folder:?}/$version"
done
exit "$failed"
