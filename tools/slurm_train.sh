#!/usr/bin/env bash
# Train under Slurm, one process a GPU:
#   sbatch tools/slurm_train.sh options/nlcl_2x8gpu_multinode.yml [more arguments of `basicsr train`]
# Submit it from the folder for experiments/, with the environment active that has nlcl_plugin. What is
# particular to a site or a job goes before the script's name and overrules the lines below:
#   sbatch --partition=... --account=... --nodes=1 --ntasks-per-node=4 --gpus-per-node=4 tools/slurm_train.sh ...
# The job resumes from its newest checkpoint when it is submitted again or requeued by Slurm.
#
#SBATCH --job-name=nlcl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=5
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# The processes get SIGTERM five minutes before the time is up; they finish their step, save and exit with 5.
#SBATCH --signal=TERM@300

set -euo pipefail

if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
  echo "usage: sbatch tools/slurm_train.sh OPTIONS.yml [more arguments of basicsr train]" >&2
  exit 2
fi

# One port per job, so that jobs on the same machine do not collide; from 20000 up, below the ports systems assign.
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 12000))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# srun doesn't take --cpus-per-task over from sbatch since Slurm 22.05. --kill-on-bad-exit: one process failing ends all.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --label \
  python -m nlcl_plugin train -opt "$@" --launcher slurm --auto_resume
