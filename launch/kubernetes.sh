#!/usr/bin/env bash
# Trains on a Kubernetes cluster: fills in kubernetes.yaml and applies it.
#
#   launch/kubernetes.sh [--dry-run] --image=IMAGE [options] -- \
#       --config=configs/vgg16_col.py --workdir=/shared/vgg16
#
# All arguments after -- go to python -m colorize_jax.main unchanged; the number of the process and
# the count of processes are added. kubernetes.yaml explains how to build IMAGE.
#
#   --dry-run                   only prints what would be applied
#   --name=colorize             the name of the JobSet, unique in the namespace
#   --hosts=1                   number of pods, one on each node, with one process each
#   --chips=8                   number of accelerators of a node
#   --resource=nvidia.com/gpu   or google.com/tpu
#   --select=LABEL=VALUE        selects nodes; can be repeated; TPU needs two:
#                               cloud.google.com/gke-tpu-accelerator and cloud.google.com/gke-tpu-topology
#   --claim=colorize            PersistentVolumeClaim that all hosts can write to
#   --mount=/shared             where it is mounted
#   --restarts=100              for evictions, lost nodes and crashes; a mistake ends the JobSet
#
# To stop for good: kubectl delete jobset NAME. The run saves; the same command resumes it.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dry_run='' IMAGE='' NAME=colorize HOSTS=1 CHIPS=8 RESOURCE=nvidia.com/gpu
CLAIM=colorize MOUNT=/shared RESTARTS=100 select=()
while (($#)); do
  case $1 in
    --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    --image=*) IMAGE=${1#*=} ;;
    --name=*) NAME=${1#*=} ;;
    --hosts=*) HOSTS=${1#*=} ;;
    --chips=*) CHIPS=${1#*=} ;;
    --resource=*) RESOURCE=${1#*=} ;;
    --select=*=*) select+=("${1#*=}") ;;
    --claim=*) CLAIM=${1#*=} ;;
    --mount=*) MOUNT=${1#*=} ;;
    --restarts=*) RESTARTS=${1#*=} ;;
    --) shift && break ;;
    *) fail "unknown option $1; --help lists the known ones" ;;
  esac
  shift
done
[[ $IMAGE ]] || fail "--image=IMAGE is missing: a container image that holds the package"
# JobSet derives names of pods from it, which may have 63 characters.
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name=$NAME must be at most 40 of a-z, 0-9 and -, begin with a letter and not end with -"
check_run "$@"

SELECTOR=$(python3 -c '
import json, sys
print(json.dumps(dict(label.split("=", 1) for label in sys.argv[1:])))
' ${select[@]+"${select[@]}"})
# JSON is valid YAML with all quotes. Kubernetes expands $( but not $$(.
# shellcheck disable=SC2016
ARGUMENTS=$(python3 -c '
import json, sys
*own, distributed = sys.argv[1:]
print(json.dumps([argument.replace("$(", "$$(") for argument in own] + distributed.split()))
' "$@" "--config.distributed.mode=explicit --config.distributed.count=$HOSTS
  --config.distributed.coordinator=$NAME-workers-0-0.$NAME:8476
  --config.distributed.id=\$(JOB_COMPLETION_INDEX)")
export NAME IMAGE HOSTS CHIPS RESOURCE CLAIM MOUNT RESTARTS SELECTOR ARGUMENTS
filled=$(python3 -c '
import os, string, sys
print(string.Template(sys.stdin.read()).safe_substitute(os.environ))
' <"$(dirname "${BASH_SOURCE[0]}")/kubernetes.yaml")

if [[ $dry_run ]]; then
  echo "$filled"
else
  kubectl apply -f - <<<"$filled"
fi
