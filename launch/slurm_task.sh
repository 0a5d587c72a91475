#!/usr/bin/env bash
# Runs a command as a task of launch/slurm.sh, and turns its exit code 75 into a file.
#
#   launch/slurm_task.sh MARK COMMAND [ARGUMENTS]
#
# `srun --kill-on-bad-exit=1` ends all tasks as soon as one reports an exit code other than 0, and
# returns the highest code of all. If a preempted task reported 75, the others would end before they
# have saved. And if a task fails with a lower code, the others are told to end, and their 75 would
# hide that code. A preempted task therefore reports 0 and creates the file MARK. Any other exit code
# is reported unchanged.
set -euo pipefail

preempted=75
mark=$1
shift

trap : TERM # SLURM signals all processes of a task; this one stays to report
status=0
"$@" || status=$?
if ((status == preempted)); then
  : >"$mark"
  exit 0
fi
exit "$status"
