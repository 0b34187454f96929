# Sourced by demo.sh and test.sh: an environment with what a requirements file names.
#
# The active environment is used if there is one (a virtual environment, or conda), and the PyTorch
# that it has is kept; otherwise .venv is made in the project's folder.

use_environment() {
  local root=$1 requirements=$2
  local python=${PYTHON:-python3}
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    python=${PYTHON:-python}
  else
    if [ ! -x "$root/.venv/bin/python" ]; then
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: $python is older than 3.10; name a newer one: PYTHON=python3.12 bash $0" >&2
        exit 2
      }
      echo "making $root/.venv"
      "$python" -m venv "$root/.venv"
    fi
    python=$root/.venv/bin/python
  fi
  PYTHON=$python
  export PYTHON
  # Nothing to install is the usual case, and should not need a network.
  if ! "$PYTHON" "$root/script/installed.py" "$root/$requirements"; then
    echo "installing $requirements (PyTorch is large; the first time takes minutes)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/$requirements"
  fi
}
