# shellcheck shell=bash
# Functions that the launchers share. They source this file; it is not run itself.

# Prints the comment at the top of the calling script.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

# Exit code 2 means a mistake in the command line.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Prints the words as one line of shell, with quotes only where needed.
quoted() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]] || word="'${word//"'"/$quote}'"
    line+=" $word"
  done
  echo "${line# }"
}

# An error here is better than in a job after hours in a queue.
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
