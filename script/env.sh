# shellcheck shell=bash
# Sourced by the other scripts: which Python, and an environment with what the project needs.

# Print the project's Python: $PYTHON, else that of the active environment (a virtual environment,
# or conda), else the one of ROOT/.venv, else the system's.
find_python() {
  local root=$1
  if [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON"
  elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    echo python
  elif [ -x "$root/.venv/bin/python" ]; then
    echo "$root/.venv/bin/python"
  else
    echo python3
  fi
}

# Become `python -m PACKAGE ARGUMENTS` of the project, in the caller's folder: relative paths are the
# caller's, and a module of the same name that lies there is not taken for the project's. (Python 3.10
# knows no PYTHONSAFEPATH, so the caller's folder, "", is taken off the path before anything loads.)
run_package() {
  local root=$1 package=$2
  shift 2
  export PYTHONSAFEPATH=1 PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  local start='import sys; sys.path[:] = filter(None, sys.path); package = sys.argv.pop(1)
import runpy; runpy.run_module(package, run_name="__main__", alter_sys=True)'
  exec "$(find_python "$root")" -c "$start" "$package" "$@"
}

# Become the search for tickets of INIT by IMP with MODE's training on DATA, on all visible GPUs.
# Arguments: ROOT MODE TAG INIT SAVE DATA [flags of main_imp_pretrain.py …]
search() {
  local root=$1 mode=$2 tag=$3 init=$4 save=$5 data=$6
  shift 6
  exec "$(find_python "$root")" "$root/main_imp_pretrain.py" "$data" --multiprocessing_distributed \
    --mode "$mode" --tag "$tag" --init "$init" --save_dir "$save" "$@"
}

# Become the making of INIT's tickets of KIND, which need no training.
# Arguments: ROOT KIND INIT SAVE [flags of main_imp_pretrain.py …]
one_shot() {
  local root=$1 kind=$2 init=$3 save=$4
  shift 4
  exec "$(find_python "$root")" "$root/main_imp_pretrain.py" \
    --ticket "$kind" --init "$init" --save_dir "$save" "$@"
}

# Become the transfer of INIT, under the masks of TICKET if there is one, to DATASET by MODE.
# Arguments: ROOT MODE DATASET INIT SAVE [TICKET] [flags of main_downstream.py …]
transfer() {
  local root=$1 mode=$2 dataset=$3 init=$4 save=$5
  shift 5
  if [ $# -ge 1 ] && [ -z "$1" ]; then
    echo "warning: TICKET is empty, so the dense network is trained" >&2
  fi
  if [ $# -ge 1 ] && [[ $1 != -* ]]; then
    set -- --tickets_file "$@"
  fi
  exec "$(find_python "$root")" "$root/main_downstream.py" \
    --mode "$mode" --dataset "$dataset" --init "$init" --save_dir "$save" "$@"
}

# Set PYTHON to an environment that has what ROOT/REQUIREMENTS names.
#
# The active environment is used if there is one, and the PyTorch that it has is kept, whatever else
# is installed; otherwise .venv is made in the project's folder (by $PYTHON, if that is set).
use_environment() {
  local root=$1 requirements=$2
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    if [ ! -x "$root/.venv/bin/python" ]; then
      local python=${PYTHON:-python3}
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: $python is older than 3.10; name a newer one: PYTHON=python3.12 bash $0" >&2
        exit 2
      }
      echo "making $root/.venv"
      "$python" -m venv "$root/.venv"
    fi
    PYTHON=$root/.venv/bin/python
  fi
  PYTHON=$(find_python "$root")
  export PYTHON
  # Nothing to install is the usual case, and should not need a network.
  if ! "$PYTHON" "$root/script/installed.py" "$root/$requirements"; then
    local kept
    kept=$("$PYTHON" "$root/script/installed.py" --kept "$root/$requirements") || exit 2
    echo "installing $requirements (PyTorch is large; the first time takes minutes)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/$requirements" \
      -c <(printf '%s\n' "$kept")
  fi
}

# Exit with the usage unless the first COUNT arguments are there and are no flags.
need_positions() {
  local count=$1 usage=$2 position
  shift 2
  for ((position = 1; position <= count; position++)); do
    if [[ $# -lt $position || ${!position} == -* ]]; then
      echo "$usage" >&2
      exit 2
    fi
  done
}
