#!/usr/bin/env bash
# What launch/slurm.sh starts as each task: a command, whose exit code 75 leaves a mark instead.
#
#   launch/slurm_task.sh MARK COMMAND [ARGUMENTS]
#
# `srun --kill-on-bad-exit=1` ends all tasks as soon as one reports an exit code other than 0, and
# itself returns the highest of them. So a code 75 would cut the others short, and, coming from
# those that are told to end because one failed, it would hide that one's code. Preempted tasks
# report 0 therefore and create the file MARK; any other exit code is reported as it is.
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
