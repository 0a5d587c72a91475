#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM, and restarts the run when it was preempted.
#
#   launch/tpu_vm.sh --name=my-pod --zone=us-east5-b [--project=my-project] [--dir=bstar_jax] \
#       [--setup] [--dry-run] --config=configs/math_mistral7b.py --workdir=/shared/runs/mistral [flags]
#
# Every other flag is passed to `python -m bstar_jax.main` unchanged, after --distributed=tpu, on
# every worker. --setup first copies the last commit of this checkout to --dir on every worker and
# installs it there; without --workdir the script then ends. --dry-run prints the commands and runs
# none. The run directory must be on storage that all workers mount, such as Filestore.
#
# This needs gcloud, logged in, and for more than one worker `ssh-add
# ~/.ssh/google_compute_engine`. Run it where it can stay connected, such as in tmux on a small VM
# of the zone: a worker that loses its connection ends at its next line of output, and the others
# end with it.
#
# Exit codes. gcloud waits for all workers and returns the code of the failed worker with the lowest
# number; 255 comes from ssh itself. 75 means that the run was preempted and its state is saved.
# Only this code restarts the run. SIGINT or SIGTERM to this script reaches every worker as SIGTERM:
# the run saves and is not restarted.
#
# When a spot VM is taken away, there is usually no code 75: the connection ends with the machine,
# and gcloud returns 1 or 255. A preempted TPU VM does not come back by itself. Create another
# (`gcloud compute tpus queued-resources create`) and run this script with --setup; the run
# continues from its last stored state.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

preempted=75

# Ends with exit code 2 and one line: the value, the rule, the remedy.
fail() {
  echo "tpu_vm.sh: error: $1" >&2
  exit 2
}

name='' zone='' project='' dir=bstar_jax workdir=''
dry_run=false
setup=false
flags=()
while (($#)); do
  case "$1" in
    --dry-run) dry_run=true ;;
    --setup) setup=true ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --dir=*) dir=${1#*=} ;;
    --name | --zone | --project | --dir) fail "$1 needs its value in the same word; write $1=VALUE" ;;
    *)
      if [[ "$1" == --workdir ]]; then workdir=${2:-}; fi
      if [[ "$1" == --workdir=* ]]; then workdir=${1#*=}; fi
      flags+=("$1")
      ;;
  esac
  shift
done
[[ -n "$name" ]] || fail "--name is missing; it takes the name of the TPU VM, such as --name=my-pod"
[[ -n "$zone" ]] || fail "--zone is missing; it takes the zone of $name, such as --zone=us-east5-b"
[[ -n "$dir" ]] || fail "--dir is empty; it takes the folder of the checkout on the workers, such as --dir=bstar_jax"
if [[ -z "$workdir" ]] && { ! "$setup" || ((${#flags[@]})); }; then
  fail "--workdir is missing; name a run directory that all workers share, such as --workdir=/shared/runs/first"
fi
if "$setup" && ! git rev-parse --quiet --verify HEAD >/dev/null; then
  fail "--setup copies the last commit, and $PWD has none; run it in a git checkout"
fi

where=(--zone="$zone" --worker=all)
if [[ -n "$project" ]]; then where+=(--project="$project"); fi

# Prints words so that any shell reads them back unchanged.
quote() {
  local word apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) printf "'%s' " "${word//$apostrophe/$escaped}" ;;
      *) printf '%s ' "$word" ;;
    esac
  done
}

# Runs a command here, or prints it.
run() {
  if "$dry_run"; then
    quote "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Runs a command line on every worker.
on_workers() { run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command="$1"; }

folder=$(quote "$dir")
if "$setup"; then
  archive=$(mktemp -d)/bstar_jax.tar.gz
  trap 'rm -rf "$(dirname "$archive")"' EXIT
  run git archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name:bstar_jax.tar.gz" "${where[@]}"
  # Images for TPU VMs come with an older Python.
  on_workers "set -e; mkdir -p $folder; tar -xzf bstar_jax.tar.gz -C $folder; cd $folder
command -v python3.11 >/dev/null || { sudo apt-get update -qq; sudo apt-get install -y -qq python3.11 python3.11-venv; }
[ -x .venv/bin/python ] || python3.11 -m venv .venv
.venv/bin/pip install -q -r requirements.lock -e '.[tpu]'"
  if [[ -z "$workdir" ]]; then exit 0; fi
fi

# If gcloud loses a worker, it runs the same command there again. The lock keeps a second process out
# while the run is active, and tells whether there is a process to stop.
train="cd $folder && exec 9>.tpu_vm.lock && { flock -n 9 || { echo 'tpu_vm.sh: a run is under way on this worker' >&2; exit 1; }; } && echo \$\$ >.tpu_vm.pid && exec .venv/bin/python -m bstar_jax.main --distributed=tpu $(quote "${flags[@]}")"
stop_workers() { on_workers "cd $folder && { flock -n .tpu_vm.lock true || kill -TERM \"\$(cat .tpu_vm.pid)\"; }"; }

if "$dry_run"; then
  on_workers "$train"
  exit 0
fi

stopping=false
trap 'stopping=true; stop_workers || true' INT TERM

while true; do
  on_workers "$train" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # signals cut a wait short
  status=0
  wait "$child" || status=$?
  if "$stopping" || ((status != preempted)); then exit "$status"; fi
  echo "tpu_vm.sh: preempted with its state saved; starting again" >&2
done
