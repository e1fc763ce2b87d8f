#!/usr/bin/env bash
# The batch script of a Slurm job, as `python3 -m launch slurm` submits it:
#
#   sbatch --nodes=2 ... launch/slurm.sh STATE MAX_RESTARTS [OPTION of host.sh run...] -- ARG...
#
# All tasks are started again where the run ended with 42, in this allocation. On SIGTERM (the time
# limit is near, or the job is preempted) all of them save, and the job goes back into the queue.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is not set; submit this with sbatch from the checkout}"
name=$1 left=$2
shift 2

told=''
# Signals the tasks of this job and not this script.
trap 'told=1; heard=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM INT

while :; do
  # One task that ends must not cut off the others, which are saving.
  srun --kill-on-bad-exit=0 --wait=120 bash launch/host.sh run "$name" "$@" &
  child=$!
  while :; do  # a signal ends `wait` early, with a code that is not the step's
    heard=''
    code=0
    wait "$child" || code=$?
    [[ -n $heard ]] || break
  done
  # srun returns the highest code of all tasks, and 42 of a task that was left alone would hide
  # the 1 of the one that failed.
  if ((code != 0)); then
    codes=$(srun bash launch/host.sh result "$name") || codes=$code
    code=42
    for each in $codes; do
      # What a signal ended (128 and more), or left no code, may do better the next time.
      if [[ $each =~ ^[0-9]+$ ]] && ((each != 0 && each != 42 && each < 128)); then code=$each; fi
    done
  fi
  if ((code != 42)); then exit "$code"; fi
  if [[ -n $told ]]; then
    echo "slurm.sh: saved; back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 42
  fi
  if ((left <= 0)); then
    echo "error: the run ended with 42 more often than max_restarts allows; see its lines above" >&2
    exit 42
  fi
  left=$((left - 1))
  echo "slurm.sh: exit code 42; starting again ($left restarts left)" >&2
done
