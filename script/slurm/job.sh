# shellcheck shell=bash
# Sourced by the batch files in this folder: how a job ends.

# Leave job ID with STATUS. But if a signal stopped its run, the job is queued again, unless it was
# submitted with --no-requeue: the run has left FOLDER/PREEMPTED, or had not begun yet (143, SIGTERM).
end_job() {
  local status=$1 folder=$2 id=$3
  if [ -e "$folder/PREEMPTED" ]; then
    status=75
  elif [ "$status" -ne 143 ]; then
    exit "$status"
  fi
  if [[ $(scontrol show job "$id") == *Requeue=0* ]]; then
    echo "stopped by a signal, and not queued again because of --no-requeue" >&2
    exit "$status"
  fi
  exec scontrol requeue "$id"
}
