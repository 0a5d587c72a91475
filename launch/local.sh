#!/usr/bin/env bash
# Trains on this host, and restarts the run when it was preempted.
#
#   launch/local.sh [--dry-run] --config=configs/arithmetic.py --workdir=runs/first [flags]
#
# Every other flag is passed to `python -m bstar_jax.main` unchanged. Exit code 75 means that the
# run was preempted and its state is saved. Only this code restarts the run; the script ends with
# any other. PYTHON names the interpreter; by default it is that of .venv, if there is one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

preempted=75
dry_run=false
if [[ "${1:-}" == --dry-run ]]; then
  dry_run=true
  shift
fi

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
command=("$PYTHON" -m bstar_jax.main "$@")

if "$dry_run"; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi

# A signal to this script is meant for the run: it is passed on, and the run is not restarted.
stopping=false
child=
trap 'stopping=true; if [[ -n "$child" ]]; then kill -TERM "$child" 2>/dev/null || true; fi' INT TERM

while true; do
  "${command[@]}" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # signals cut a wait short
  status=0
  wait "$child" || status=$?
  if "$stopping" || ((status != preempted)); then exit "$status"; fi
  echo "local.sh: preempted with its state saved; starting again" >&2
done
