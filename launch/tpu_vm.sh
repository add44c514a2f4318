#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: requests it, sets up every worker, and runs there. After a
# preemption it repeats all that, and the run resumes from its last checkpoint.
#
#   launch/tpu_vm.sh [--dry-run] --name=NAME --zone=ZONE [options] -- \
#       --config=configs/vgg16_col.py --workdir=/mnt/colorize/vgg16
#
# All arguments after -- go to python -m colorize_jax.main unchanged. The project is gcloud's default.
#
#   --dry-run                      only prints the commands
#   --type=v5litepod-8             accelerator type
#   --version=v2-alpha-tpuv5-lite  runtime version, which depends on the type
#   --spot                         a cheap TPU that is preempted sooner or later
#   --bucket=BUCKET                is mounted with gcsfuse at /mnt/colorize on every worker
#   --delete                       deletes the TPU after any end of the run; otherwise the TPU stays
#                                  and costs money
#   --poll=30                      seconds between two checks of the TPU's state
#
# It copies the package, configs/ and launch/ of this checkout, installs the package, and returns the
# exit code of the run. After 75 (stopped and saved) and 255 (connection lost) it starts again. Ctrl-C
# ends only the watching: training continues, and the same command waits for it.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dry_run='' name='' zone='' type=v5litepod-8 version=v2-alpha-tpuv5-lite
spot=() bucket='' delete='' poll=30
while (($#)); do
  case $1 in
    --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    --spot) spot=(--spot) ;;
    --delete) delete=1 ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --poll=*) poll=${1#*=} ;;
    --) shift && break ;;
    *) fail "unknown option $1; --help lists the known ones" ;;
  esac
  shift
done
[[ $name && $zone ]] || fail "--name=NAME and --zone=ZONE say which TPU; one of them is missing"
check_run "$@"

requests() { gcloud compute tpus queued-resources "$@" --zone="$zone"; }
vm() { gcloud compute tpus tpu-vm "$@" --zone="$zone"; }
create() {
  requests create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" ${spot[@]+"${spot[@]}"}
}
remove() { requests delete "$name" --force --quiet; }
state() {
  local state
  state=$(requests list --filter="name~/$name\$" --format='value(state.state)') || state=UNKNOWN
  # The request stays active for some time after its TPU is lost.
  if [[ $state == ACTIVE ]]; then
    state=$(vm describe "$name" --format='value(state)') || state=UNKNOWN
  fi
  echo "${state:-ABSENT}"
}
finish() {
  if [[ $delete ]]; then remove; fi
  exit "$1"
}

# After a lost connection the run continues, but gcloud starts the command again. The lock makes the
# second run wait for the end of the first; it then finds everything done.
worker="rm -rf colorize && mkdir colorize && tar -xzf colorize.tar.gz -C colorize &&"
worker+=" exec bash colorize/launch/tpu_vm_worker.sh \"\$@\""
worker="flock colorize.lock bash -c '$worker' worker $(quoted "$bucket" "$@")"
train() {
  vm scp "$archive" "$name:colorize.tar.gz" --worker=all &&
    vm ssh "$name" --worker=all --command="$worker"
}

if [[ $dry_run ]]; then
  archive=colorize.tar.gz
  gcloud() { quoted gcloud "$@"; }
  create && train
  echo "# which ends on every worker in: $(quoted python -m colorize_jax.main "$@")"
  if [[ $delete ]]; then remove; fi
  exit
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
archive=$scratch/colorize.tar.gz
root=$(dirname "${BASH_SOURCE[0]}")/..
tar -C "$root" --exclude=__pycache__ -czf "$archive" README.md setup.py colorize_jax configs launch
while :; do
  now=$(state)
  echo "${0##*/}: $name is $now" >&2
  case $now in
    ABSENT) create ;;
    READY)
      if train; then finish 0; else code=$?; fi
      # 75 means that the run was stopped and has saved, 255 that the connection was lost. A preemption
      # can give any code, and it takes some time to be visible.
      sleep "$poll"
      if ((code != 75 && code != 255)) && [[ $(state) == READY ]]; then finish "$code"; fi
      ;;
    SUSPENDED | PREEMPTED | TERMINATED) remove ;;
    FAILED)
      requests describe "$name"
      echo "${0##*/}: the request failed; delete it before the next attempt" >&2
      exit 1
      ;;
    *) sleep "$poll" ;;
  esac
done
