#!/usr/bin/env bash
# A tiny study on a real Slurm: stopped by scancel, by a time limit and by a job that preempts, and a
# run on two nodes; each must end with the bits of a plain one. By hand, as root on Debian, minutes:
#
#   apt-get install -y slurm-wlm munge && bash tests/soak_slurm.sh [FOLDER]
#
# The two nodes and their GPUs are made up. The daemons are this script's own: it starts them in
# FOLDER, with a key and sockets of their own, and stops them by their ids.
set -euo pipefail
[[ $# -le 1 && ${1:-} != -* ]] || { echo "usage: bash tests/soak_slurm.sh [FOLDER]" >&2; exit 2; }
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
source "$root/script/env.sh"
for command in munged slurmctld slurmd srun unshare; do
  if [ "$(id -u)" -ne 0 ] || ! type -P "$command" >/dev/null; then
    echo "error: needs root and $command: apt-get install -y slurm-wlm munge" >&2
    exit 2
  fi
done
# Names of nodes that resolve, in a mount namespace of this script's own.
if [ -z "${SOAK_NAMESPACE:-}" ]; then
  SOAK_NAMESPACE=1 exec unshare --mount bash "$0" "$@"
fi
place=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$place"/{state,node1,node2,jobs}
PYTHON=$(find_python "$root")
PYTHON=$(type -P "$PYTHON") # for the jobs, whose path may be another
export PYTHON OMP_NUM_THREADS=1 SLURM_CONF=$place/slurm.conf DOUBLE_WIN_ROOT=$root
host=$(hostname)
printf '127.0.0.1 localhost node1 node2 %s\n' "$host" >"$place/hosts"
mount --bind "$place/hosts" /etc/hosts
ids=()

say() { printf '%(%T)T %s\n' -1 "$*"; }

# --- the daemons ---------------------------------------------------------------------------------

stop_daemons() {
  scancel --state=PENDING 2>/dev/null || true
  scancel --user=root 2>/dev/null || true
  sleep 2
  # slurmd and slurmctld before munged, which they need
  for ((number = ${#ids[@]} - 1; number >= 0; number--)); do
    kill "${ids[number]}" 2>/dev/null || true
    wait "${ids[number]}" 2>/dev/null || true
  done
}
trap stop_daemons EXIT

start() {
  local name=$1
  shift
  "$@" >"$place/$name.out" 2>&1 &
  ids+=($!)
}

write_configuration() {
  local cores gpus
  cores=$(nproc)
  gpus=$((cores < 8 ? cores : 8))
  cat >"$place/slurm.conf" <<END
ClusterName=soak
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$place/munge.socket,cred_expire=10
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/%n
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/%n.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=30
ReturnToService=2
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=$cores Gres=gpu:$gpus
PartitionName=usual Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=off
END
  printf 'NodeName=node[1-2] Name=gpu File=/dev/tty[0-%d]\n' "$((gpus - 1))" >"$place/gres.conf"
  head -c 128 /dev/urandom >"$place/munge.key"
  chmod 400 "$place/munge.key"
}

start_daemons() {
  write_configuration
  start munged munged --foreground --force --key-file="$place/munge.key" \
    --socket="$place/munge.socket" --pid-file="$place/munged.pid" --log-file="$place/munged.log" \
    --seed-file="$place/munged.seed"
  until [ -S "$place/munge.socket" ]; do sleep 0.1; done
  start slurmctld slurmctld -D
  start node1 slurmd -D -N node1
  start node2 slurmd -D -N node2
  for ((try = 0; try < 60; try++)); do
    [ "$(sinfo --noheader --format=%t --partition=usual 2>/dev/null | sort -u)" != idle ] || return 0
    sleep 1
  done
  echo "error: the nodes do not come up; see $place/*.log" >&2
  exit 1
}

# --- the study -----------------------------------------------------------------------------------

write_study() {
  "$PYTHON" "$root/script/demo_data.py" "$place/data"
  cat >"$place/study.toml" <<END
[study]
out = "$place/plain"
flags = "-a resnet20s --width 8 --input_size 16 --augment crop --no_hflip -b 32 --threads 1 --save_every_steps 1000"
[[pretraining]]
tag = "std"
mode = "std"
data = "$place/data/source"
flags = "--pretrain_epochs 2 --epochs ${EPOCHS:-20} --prune_epoch 10 --lr 0.05"
[transfer]
datasets = ["folder"]
data = "$place/data/target"
modes = ["adv"]
states = [0, 1]
tickets = ["imp", "omp"]
[transfer.flags]
all = """--epochs ${EPOCHS:-20} --lr_schedule cosine --lr 0.05 --eval_from 15
         --train_eps 0.1 --train_step 2 --train_gamma 0.05 --test_eps 0.1 --test_step 2 --test_gamma 0.05"""
END
}

study() { bash "$root/script/study.sh" "$place/study.toml" "$@"; }

# Submit the study with OUT as its folder and further options of sbatch; print its jobs.
submit() {
  local out=$1
  shift
  local lines
  lines=$(study --out "$place/$out" --slurm)
  lines=${lines//sbatch --parsable/sbatch --parsable --cpus-per-task=1 --chdir=$place/jobs $*}
  bash -c "$lines" | tail -n 1
}

queue() { squeue --noheader --format="$1" --partition=usual; }

# Print the jobs that have trained an epoch since they were started, array elements by themselves.
in_training() {
  local id state shown log before
  queue '%i %T' | while read -r id state; do
    [ "$state" = RUNNING ] || continue
    shown=$(scontrol show job "$id")
    log=$(sed -n 's/^ *StdOut=//p' <<<"$shown")
    before=$(cat "$place/jobs/seen.$id" 2>/dev/null || echo 0) # the lines of earlier starts
    if tail -n "+$((before + 1))" "$log" 2>/dev/null | grep -q 'epoch [0-9]*/[0-9]*: train loss'; then
      wc -l <"$log" >"$place/jobs/seen.$id"
      echo "$id"
    fi
  done
}

# Wait until nothing is queued, and call a function with the ids that may be stopped in between.
until_done() {
  local stop=$1 waited=0 id
  while [ -n "$(queue %i)" ]; do
    for id in $(in_training); do "$stop" "$id"; done
    sleep 2
    waited=$((waited + 2))
    [ "$waited" -lt "${PATIENCE:-3000}" ] || { queue; echo "error: no end of it" >&2; exit 1; }
  done
}

# Whether a job is stopped for the first time.
once() {
  [ ! -e "$place/jobs/stopped.$1" ] || return 1
  touch "$place/jobs/stopped.$1"
}
stop_by_term() {
  once "$1" || return 0
  say "  scancel --signal=TERM $1"
  scancel --signal=TERM "$1"
}
stop_by_preempting() {
  once "$1" || return 0
  say "  a job of another partition takes both nodes"
  sbatch --parsable --partition=urgent --nodes=2 --exclusive --chdir="$place/jobs" --wrap='sleep 5' >/dev/null
}
let_go() { :; }

# Compare the runs of two folders to the bit, and count how often those of the second were stopped.
compare() {
  "$PYTHON" - "$root" "$place/$1" "$place/$2" <<'END'
import sys
from pathlib import Path

root, plain, other = map(Path, sys.argv[1:])
sys.path[:0] = [str(root), str(root / "tests")]
from helpers.main_cases import assert_same_run  # noqa: E402

runs = sorted(path.parent for path in plain.rglob("args.json"))
assert runs
for run in runs:
    twin = other / run.relative_to(plain)
    for folder in (run, twin):
        (folder / "log.txt").unlink(missing_ok=True)  # a study's own, not the run's
        (folder / "metrics.jsonl").touch()  # one-shot tickets have none
    assert_same_run(run, twin)
print(f"  {len(runs)} runs: the bits of the plain ones")
END
}

report() {
  local saved unbegun
  unbegun=$(cat "$place"/jobs/*.out | grep -c 'Exited with exit code 143' || true)
  saved=$(cat "$place"/jobs/*.out 2>/dev/null | grep -c 'after saving' || true)
  say "  stopped after saving $saved times, by status 143 $unbegun times; queued again and done"
  local file
  for file in "$place"/jobs/*.out; do
    # torchrun tells of a SIGTERM by a traceback of its own
    if grep -q 'a loader process died' "$file" ||
      { grep -q Traceback "$file" && ! grep -q SignalException "$file"; }; then
      echo "error: see $file" >&2
      exit 1
    fi
  done
  rm -f "$place"/jobs/*
}

# --- the trials ----------------------------------------------------------------------------------

trial() {
  local name=$1 stop=$2
  shift 2
  say "$name"
  submit "$name" "$@" >/dev/null
  until_done "$stop"
  compare plain "$name"
  report
}

two_nodes() {
  local flags=(-a resnet20s --width 8 --input_size 16 --augment crop --no_hflip -b 16 --threads 1
    --epochs "${EPOCHS:-20}" --prune_epoch 10 --lr 0.05 --save_every_steps 1000)
  "$PYTHON" "$root/script/demo_data.py" "$place/data"
  say "two nodes, plainly: two processes that stand for them"
  local plain=("$PYTHON" "$root/main_imp_pretrain.py" "$place/data/source" --mode std --tag std
    --init "$place/plain/imp/std/init.pth.tar" "${flags[@]}" --save_dir "$place/nodes-plain/imp"
    --multiprocessing_distributed --nproc 1 --world_size 2 --dist_url tcp://127.0.0.1:18999)
  "${plain[@]}" --rank 1 >"$place/rank1.out" 2>&1 &
  local other=$!
  "${plain[@]}" --rank 0 >"$place/rank0.out" 2>&1
  wait "$other"
  say "two nodes by imp_multinode.sbatch, stopped once"
  sbatch --parsable --nodes=2 --gpus-per-node=1 --cpus-per-task=1 --chdir="$place/jobs" \
    "$root/script/slurm/imp_multinode.sbatch" std "$place/plain/imp/std/init.pth.tar" \
    "$place/nodes-slurm/imp" "$place/data/source" "${flags[@]}" >/dev/null
  until_done stop_by_term
  compare nodes-plain nodes-slurm
  report
}

say "in $place"
write_study
start_daemons
say "the study, plainly"
study -J 2 >"$place/plain.out"
trial scancel stop_by_term
trial preemption stop_by_preempting
# Slurm looks every half minute, so TERM comes within 30 seconds of the start, during imports too.
trial time-limit let_go --time=1 --signal=TERM@40
two_nodes
say "all of it in $SECONDS s"
