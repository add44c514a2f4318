# shellcheck shell=bash
# What the launchers share; sourced by them, not run.

# The comment at the head of the calling script.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

# Exit code 2 is kept for mistakes in the command line, as everywhere.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# The words as one line of shell, with quotes only where they are needed.
quoted() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]] || word="'${word//"'"/$quote}'"
    line+=" $word"
  done
  echo "${line# }"
}

# Better here and now than by a job that waited in a queue for hours.
check_run() {
  local argument config='' workdir=''
  for argument in "$@"; do
    case $argument in
      --config=* | --config) config=1 ;;
      --workdir=* | --workdir) workdir=1 ;;
    esac
  done
  [[ $config ]] || fail "--config=RECIPE is missing behind --, for example --config=vgg16_col"
  [[ $workdir ]] || fail "--workdir=FOLDER is missing behind --, for example --workdir=/ckpt/vgg16"
}
