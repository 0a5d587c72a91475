#!/usr/bin/env bash
# Trains on the GPUs of several SLURM nodes, and queues the job again when it was preempted.
#
#   sbatch [--nodes=4] [--gpus-per-node=4] [--time=24:00:00] launch/slurm.sh \
#       --config=configs/math_mistral7b.py --workdir=/shared/runs/mistral [flags]
#   launch/slurm.sh --dry-run --config=... --workdir=... [flags]
#
# Submit it in the root of the checkout. The checkout, its .venv and the run directory must be on a
# file system that all nodes share, and the nodes must reach each other at all TCP ports. An option
# before `launch/slurm.sh` replaces the same option in the #SBATCH lines below.
#
# Each node runs one task, which uses all GPUs of the job on that node. Every other flag is passed
# to `python -m bstar_jax.main` unchanged. --dry-run prints the command and starts nothing.
#
# Two minutes before the time limit SLURM sends SIGTERM to the tasks. They save together and end
# with exit code 75. Only this code queues the job again; the job ends with any other. A job that
# is cancelled (scancel) saves too, and is not queued again. If one task fails, srun ends the
# others.
#
# PYTHON names the interpreter; by default it is that of .venv, if there is one.
#
#SBATCH --job-name=bstar_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

preempted=75

# Ends with exit code 2 and one line: the value, the rule, the remedy.
fail() {
  echo "slurm.sh: error: $1" >&2
  exit 2
}

dry_run=false
workdir=
flags=()
while (($#)); do
  case "$1" in
    --dry-run) dry_run=true ;;
    --workdir) workdir=${2:-} ;;&
    --workdir=*) workdir=${1#*=} ;;&
    *) flags+=("$1") ;;
  esac
  shift
done
[[ -n "$workdir" ]] || fail "--workdir is missing; name a run directory that all nodes share, such as --workdir=/shared/runs/first"

# SLURM runs a copy of this script in another folder.
root=$(dirname "${BASH_SOURCE[0]}")/..
if [[ ! -f "$root/bstar_jax/main.py" ]]; then root=${SLURM_SUBMIT_DIR:-.}; fi
[[ -f "$root/bstar_jax/main.py" ]] || fail "$root holds no bstar_jax/main.py; run sbatch in the root of the checkout"
cd "$root"

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
# The tasks create this file when they are preempted. Every start of every job has its own.
mark=$workdir/.preempted-${SLURM_JOB_ID:-JOB}-${SLURM_RESTART_COUNT:-0}
# The one task of a node gets all CPUs: graders use those that training leaves idle.
step=(
  srun --kill-on-bad-exit=1 --cpu-bind=none launch/slurm_task.sh "$mark"
  "$PYTHON" -m bstar_jax.main --distributed=slurm "${flags[@]}"
)

if "$dry_run"; then
  printf '%q ' "${step[@]}"
  printf '\n'
  echo "# after exit code $preempted alone:"
  echo "scontrol requeue \"\$SLURM_JOB_ID\""
  exit 0
fi
[[ -n "${SLURM_JOB_ID:-}" ]] || fail "SLURM_JOB_ID is not set, so this is no SLURM job; submit it: sbatch launch/slurm.sh ..."

# SIGTERM to this script means that somebody ends the job. SLURM itself signals the tasks.
stopping=false
trap 'stopping=true' INT TERM

"${step[@]}" &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # signals cut a wait short
status=0
wait "$child" || status=$?
if ((status == 0)) && [[ -e "$mark" ]]; then status=$preempted; fi
rm -f "$mark"
if ! "$stopping" && ((status == preempted)); then
  echo "slurm.sh: preempted with its state saved; queueing job $SLURM_JOB_ID again" >&2
  scontrol requeue "$SLURM_JOB_ID" ||
    echo "slurm.sh: job $SLURM_JOB_ID cannot be queued again; submit the same command" >&2
fi
exit "$status"
