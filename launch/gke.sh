#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet that restarts when it was preempted.
#
#   launch/gke.sh --name=mistral --image=REGION-docker.pkg.dev/PROJECT/REPO/bstar_jax \
#       --accelerator=tpu-v5-lite-podslice --topology=4x4 [--slices=2] [--chips-per-host=4] \
#       --claim=runs|--bucket=my-bucket [--mount=/runs] [--namespace=NAME] [--service-account=NAME] \
#       [--spot] [--grace-seconds=300] [--dry-run] \
#       --config=configs/math_mistral7b.py --workdir=/runs/mistral [flags]
#   launch/gke.sh --xpk --name=mistral --image=... --cluster=NAME --device-type=v5litepod-16 \
#       [--slices=2] [--grace-seconds=300] [--dry-run] --config=... --workdir=... [flags]
#
# Every other flag is passed to `python -m bstar_jax.main` unchanged. --dry-run prints the manifest,
# or with --xpk the command, and starts nothing. The image is that of launch/Dockerfile.
#
# A slice is a Job of topology / chips-per-host pods. Several slices find each other over the data
# center network. --accelerator and --topology are the labels of the node pool,
# cloud.google.com/gke-tpu-accelerator and gke-tpu-topology. --claim names a PersistentVolumeClaim
# that all pods may write to (ReadWriteMany, such as Filestore). --bucket mounts a Cloud Storage
# bucket with Cloud Storage FUSE, as the --service-account that may write to it. Renaming a folder
# is atomic only in a bucket with hierarchical namespace.
#
# Restarts. After exit code 75 (preempted, the state saved) all pods are created again when all old
# ones are gone, without a limit. Any other code, or a pod that is lost without a code, fails the
# JobSet: `kubectl get jobset NAME` and the log of the pod show which. A pod that is evicted gets
# SIGTERM and has --grace-seconds to save, but on a spot node at most 15 seconds. This script ends
# with the exit code of kubectl (or xpk) when the JobSet is created. To continue later, run
# `kubectl delete jobset NAME` and give the same command.
#
# This needs kubectl, set up for the cluster, and JobSet 0.7 there. With --xpk, xpk makes the
# manifest and mounts the storage that is attached to its cluster. It limits restarts (50 here), and
# it restarts on 42 and 127 to 255 too, which cannot be switched off.
set -euo pipefail

preempted=75

# Ends with exit code 2 and one line: the value, the rule, the remedy.
fail() {
  echo "gke.sh: error: $1" >&2
  exit 2
}

name='' image='' accelerator='' topology='' slices=1 chips_per_host='' claim='' bucket=''
mount=/runs namespace='' service_account='' grace_seconds=300 cluster='' device_type='' workdir=''
dry_run=false
spot=false
xpk=false
flags=()
while (($#)); do
  case "$1" in
    --dry-run) dry_run=true ;;
    --spot) spot=true ;;
    --xpk) xpk=true ;;
    --name=* | --image=* | --accelerator=* | --topology=* | --slices=* | --chips-per-host=* | \
      --claim=* | --bucket=* | --mount=* | --namespace=* | --service-account=* | \
      --grace-seconds=* | --cluster=* | --device-type=*)
      variable=${1%%=*}
      variable=${variable#--}
      printf -v "${variable//-/_}" '%s' "${1#*=}"
      ;;
    --name | --image | --accelerator | --topology | --slices | --chips-per-host | --claim | \
      --bucket | --mount | --namespace | --service-account | --grace-seconds | --cluster | \
      --device-type) fail "$1 needs its value in the same word; write $1=VALUE" ;;
    *)
      if [[ "$1" == --workdir ]]; then workdir=${2:-}; fi
      if [[ "$1" == --workdir=* ]]; then workdir=${1#*=}; fi
      flags+=("$1")
      ;;
  esac
  shift
done

# Fails unless a value is a whole number from 1.
positive() { [[ "$2" =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1 is '$2'; it takes a whole number from 1, such as $1=$3"; }

[[ -n "$name" ]] || fail "--name is missing; it takes a name for the JobSet, such as --name=mistral"
[[ "$name" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name is '$name'; it takes up to 40 of a-z, 0-9 and -, a letter first, such as --name=mistral"
[[ -n "$image" ]] || fail "--image is missing; it takes a container image built from launch/Dockerfile"
[[ -n "$workdir" ]] || fail "--workdir is missing; name a run directory on the volume, such as --workdir=$mount/$name"
positive --slices "$slices" 2
positive --grace-seconds "$grace_seconds" 300

if "$xpk"; then
  [[ -n "$cluster" ]] || fail "--cluster is missing; it takes the cluster that xpk made"
  [[ -n "$device_type" ]] || fail "--device-type is missing; it takes what xpk calls the slice, such as --device-type=v5litepod-16"
  [[ "${flags[*]}" != *$'\n'* ]] || fail "a flag has a line break, which xpk cannot pass on; use the manifest, without --xpk"
  # xpk puts the command into a script for bash in the container.
  command=(
    xpk workload create --workload="$name" --cluster="$cluster" --tpu-type="$device_type"
    --num-slices="$slices" --docker-image="$image" --restart-on-exit-codes="$preempted"
    --max-restarts=50 --termination-grace-period-seconds="$grace_seconds"
    --command="exec python -m bstar_jax.main $(printf '%q ' "${flags[@]}")"
  )
  if "$dry_run"; then
    printf '%q ' "${command[@]}"
    printf '\n'
    exit 0
  fi
  exec "${command[@]}"
fi

[[ "$accelerator" == tpu* ]] || fail "--accelerator is '$accelerator'; it takes the node pool's label, such as --accelerator=tpu-v5-lite-podslice"
[[ "$topology" =~ ^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$ ]] ||
  fail "--topology is '$topology'; it takes the shape of a slice in chips, such as --topology=4x4 or --topology=2x2x4"
chips=$((${topology//x/*}))
if [[ -z "$chips_per_host" ]]; then chips_per_host=$((chips < 4 ? chips : 4)); fi
positive --chips-per-host "$chips_per_host" 4
((chips % chips_per_host == 0)) ||
  fail "--topology=$topology has $chips chips, which is no multiple of --chips-per-host=$chips_per_host; give the chips of one machine of the node pool"
hosts=$((chips / chips_per_host))
[[ -n "$claim" || -n "$bucket" ]] || fail "--claim and --bucket are missing; the run directory needs one of them, such as --claim=runs"
[[ -z "$claim" || -z "$bucket" ]] || fail "--claim=$claim and --bucket=$bucket are both given; drop one"
[[ "$workdir" == "$mount"/* ]] || fail "--workdir is '$workdir'; it must be on the volume, which is mounted at $mount, such as --workdir=$mount/$name"

for value in "$image" "$accelerator" "$claim" "$bucket" "$mount" "$namespace" "$service_account" "${flags[@]}"; do
  bare=${value//[$'\n\t']/}
  [[ "$bare" != *[[:cntrl:]]* ]] || fail "$(printf '%q' "$value") contains a control character; only line breaks and tabs are passed on"
done

# Prints a string in double quotes, as YAML reads it.
text() {
  local escaped=${1//\\/\\\\}
  escaped=${escaped//\"/\\\"}
  escaped=${escaped//$'\n'/\\n}
  printf '"%s"' "${escaped//$'\t'/\\t}"
}

# Prints strings as a YAML list. Kubernetes replaces $(NAME) in a command, and reads $$ as $.
items() {
  local word
  for word in "$@"; do printf '                    - %s\n' "$(text "${word//\$/\$\$}")"; done
}

words=(python -m bstar_jax.main)
if ((hosts * slices > 1)); then words+=(--distributed=tpu); fi
words+=("${flags[@]}")

fuse='' account='' spot_label='' volume="persistentVolumeClaim: {claimName: $(text "$claim")}"
if [[ -n "$bucket" ]]; then
  fuse='metadata: {annotations: {gke-gcsfuse/volumes: "true"}}'
  # Processes wait for each other's files, so no information about files may come from a cache.
  options=implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
  volume="csi: {driver: gcsfuse.csi.storage.gke.io, volumeAttributes: {bucketName: $(text "$bucket"), mountOptions: \"$options\"}}"
fi
if [[ -n "$service_account" ]]; then account="serviceAccountName: $(text "$service_account")"; fi
if "$spot"; then spot_label='cloud.google.com/gke-spot: "true"'; fi

# Prints the manifest. Lines that are empty because their flag is not given are left out.
manifest() {
  sed '/^ *$/d' <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "$name"
  annotations:  # a node pool for each slice
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: 0
    restartStrategy: BlockingRecreate
    rules:
      - name: preempted  # the failures that podFailurePolicy counts
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [BackoffLimitExceeded]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0
          podReplacementPolicy: Failed
          podFailurePolicy:
            rules:
              - action: Count
                onExitCodes: {containerName: main, operator: In, values: [$preempted]}
              - action: FailJob
                onExitCodes: {containerName: main, operator: NotIn, values: [$preempted]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            $fuse
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace_seconds
              $account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $(text "$accelerator")
                cloud.google.com/gke-tpu-topology: $topology
                $spot_label
              containers:
                - name: main
                  image: $(text "$image")
                  command:
$(items "${words[@]}")
                  ports: [{containerPort: 8471}]  # the TPU runtimes of a slice
                  resources:
                    requests: {google.com/tpu: $chips_per_host}
                    limits: {google.com/tpu: $chips_per_host}
                  volumeMounts:
                    - {name: runs, mountPath: $(text "$mount")}
              volumes:
                - name: runs
                  $volume
END
}

create=(kubectl create -f -)
if [[ -n "$namespace" ]]; then create=(kubectl --namespace="$namespace" create -f -); fi
if "$dry_run"; then
  printf '# for %s\n' "${create[*]}"
  manifest
  exit 0
fi
manifest | "${create[@]}"
echo "gke.sh: follow it with: kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=$name" >&2
