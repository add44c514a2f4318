#!/usr/bin/env bash
# Trains on the GPU nodes of a SLURM cluster, and requeues the job if it is stopped before its end.
#
#   launch/slurm.sh [--dry-run] [options] -- --config=configs/vgg16_col.py --workdir=/ckpt/vgg16
#
# All arguments after -- go to python -m colorize_jax.main unchanged. The job gets the environment
# and the folder that it is submitted from: activate the virtual environment first.
#
#   --dry-run           only prints the commands
#   --nodes=1
#   --gpus-per-node=8   or with a type, such as a100:8; JAX wants one process for each GPU
#   --cpus-per-task=8   for each process: reading and decoding photos
#   --grace=300         the run is signaled to save this many seconds before the time limit; give
#                       more than the longest step and a save take
#   all others          are sbatch's: --partition, --account, --time, --job-name, ...
#
# --requeue lets SLURM requeue the job when a node fails or the job is preempted. For preemption, the
# cluster's PreemptParameters=send_user_signal or a GraceTime give the run time to save; without them
# it resumes from its last regular checkpoint.
set -euo pipefail

# In the job SLURM runs a copy of this file on the first node, without common.sh beside it.
if [[ ${1:-} == --job ]]; then
  shift
  # --signal without B: signals only the steps, but other ends of a job signal this shell too. It must
  # survive srun to requeue the job.
  trap : TERM
  code=0
  # There is no binding, because JAX picks the GPU by the local number of the process and must see all
  # GPUs. A process that saves first must not cause the others to be killed. srun does not inherit
  # --cpus-per-task.
  srun --gpu-bind=none --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    python -m colorize_jax.main "$@" || code=$?
  # 75 means stopped and saved. A job that somebody canceled, or that SLURM itself requeues, is no
  # longer in the state "running".
  if ((code == 75)) && [[ $(scontrol -o show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
fi

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
dry_run='' nodes=1 gpus=8 cpus=8 grace=300 others=()
while (($#)); do
  case $1 in
    --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --cpus-per-task=*) cpus=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --) shift && break ;;
    -*) others+=("$1") ;;
    *) fail "unknown option $1; sbatch's own are taken as --OPTION or --OPTION=VALUE" ;;
  esac
  shift
done
check_run "$@"

submit=(sbatch --nodes="$nodes" --ntasks-per-node="${gpus##*:}" --gpus-per-node="$gpus"
  --cpus-per-task="$cpus" --signal="TERM@$grace" --requeue --open-mode=append
  ${others[@]+"${others[@]}"} "${BASH_SOURCE[0]}" --job "$@")
if [[ $dry_run ]]; then
  quoted "${submit[@]}"
  echo "# and in the job: srun $(quoted python -m colorize_jax.main "$@")"
  exit
fi
exec "${submit[@]}"
