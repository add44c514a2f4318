#!/usr/bin/env bash
# Trains on all devices of this machine.
#
#   launch/local.sh [--dry-run] [--restarts=N] -- --config=configs/vgg16_col.py --workdir=/ckpt/vgg16
#
# Everything behind -- goes to python -m colorize_jax.main as it is.
#
#   --dry-run      prints the command instead
#   --restarts=3   starts a run that crashed (exit codes 134, 137 and 139: aborted, killed, as when
#                  memory is short, and segmentation fault) again at most so many times; it goes on
#                  from its last checkpoint
#
# SIGTERM, SIGINT and SIGHUP are passed on: the run saves and ends with 75, and stays ended, since somebody
# wanted that; the same command goes on. A mistake (1) and a state that could not be saved (74) would
# only happen again. The exit code is that of the last start.
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

# With its own process group the run gets Ctrl-C once, from here, and not a second time, which means
# "at once", from the terminal.
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
