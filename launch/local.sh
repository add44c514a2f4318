#!/usr/bin/env bash
# Trains on all devices of this machine.
#
#   launch/local.sh [--dry-run] [--restarts=N] -- --config=configs/vgg16_col.py --workdir=/ckpt/vgg16
#
# All arguments after -- go to python -m colorize_jax.main unchanged.
#
#   --dry-run      only prints the command
#   --restarts=3   how often a crashed run is restarted from its last checkpoint. The exit codes of
#                  crashes are 134 (aborted), 137 (killed, for example when memory is short) and
#                  139 (segmentation fault)
#
# SIGTERM, SIGINT and SIGHUP are passed on: the run saves and ends with 75. It is not restarted then,
# because somebody stopped it; the same command resumes it. A mistake (1) and a state that could not be
# saved (74) would only occur again. The exit code is that of the last start.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dry_run='' restarts=3
while (($#)); do
  case $1 in
    --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    --restarts=*) restarts=${1#*=} ;;
    --) shift && break ;;
    *) fail "unknown option $1; --help lists the known ones" ;;
  esac
  shift
done
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts must be a number"
check_run "$@"

command=(python -m colorize_jax.main "$@")
if [[ $dry_run ]]; then
  quoted "${command[@]}"
  exit
fi

# In its own process group the run gets Ctrl-C only once, from here. A second one, from the terminal,
# would end it at once.
set -m
signalled='' stopped=''
forward() {
  signalled=1 stopped=1
  kill -s "$1" "$child" 2>/dev/null || true
}
while :; do
  "${command[@]}" </dev/null &
  child=$!
  trap 'forward TERM' TERM
  trap 'forward INT' INT
  trap 'forward HUP' HUP # under nohup it stays ignored
  # A signal ends `wait`, but not the run.
  while :; do
    signalled='' code=0
    wait "$child" || code=$?
    [[ $signalled ]] || break
  done
  [[ $code =~ ^(134|137|139)$ && ! $stopped && $restarts -gt 0 ]] || exit "$code"
  restarts=$((restarts - 1))
  echo "${0##*/}: the run crashed with exit code $code; it is started again" >&2
done
