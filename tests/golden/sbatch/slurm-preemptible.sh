# ---- small-pretrain-IDENTITY
#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --cpus-per-task=8
#SBATCH --error=/sweeps/small/logs/small-pretrain-IDENTITY/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=small-pretrain-IDENTITY
#SBATCH --mem=32768M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/sweeps/small/logs/small-pretrain-IDENTITY/%A_%a_0_log.out
#SBATCH --qos=preemptible
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=240

# setup
export PYTHONPATH=/sweeps/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} OMP_WAIT_POLICY=PASSIVE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /sweeps/small/logs/small-pretrain-IDENTITY/%A_%a_%t_log.out --error /sweeps/small/logs/small-pretrain-IDENTITY/%A_%a_%t_log.err --cpus-per-task=8 --kill-on-bad-exit=1 python -u -m slurm.start /sweeps/small/logs/small-pretrain-IDENTITY
# ---- small-linear-IDENTITY
#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --cpus-per-task=8
#SBATCH --dependency='aftercorr:<small-pretrain-IDENTITY>'
#SBATCH --error=/sweeps/small/logs/small-linear-IDENTITY/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=small-linear-IDENTITY
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=32768M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/sweeps/small/logs/small-linear-IDENTITY/%A_%a_0_log.out
#SBATCH --qos=preemptible
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=240

# setup
export PYTHONPATH=/sweeps/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} OMP_WAIT_POLICY=PASSIVE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /sweeps/small/logs/small-linear-IDENTITY/%A_%a_%t_log.out --error /sweeps/small/logs/small-linear-IDENTITY/%A_%a_%t_log.err --cpus-per-task=8 --kill-on-bad-exit=1 python -u -m slurm.start /sweeps/small/logs/small-linear-IDENTITY
# ---- small-knn-IDENTITY
#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --cpus-per-task=8
#SBATCH --dependency='aftercorr:<small-pretrain-IDENTITY>'
#SBATCH --error=/sweeps/small/logs/small-knn-IDENTITY/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=small-knn-IDENTITY
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=32768M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/sweeps/small/logs/small-knn-IDENTITY/%A_%a_0_log.out
#SBATCH --qos=preemptible
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=240

# setup
export PYTHONPATH=/sweeps/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} OMP_WAIT_POLICY=PASSIVE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /sweeps/small/logs/small-knn-IDENTITY/%A_%a_%t_log.out --error /sweeps/small/logs/small-knn-IDENTITY/%A_%a_%t_log.err --cpus-per-task=8 --kill-on-bad-exit=1 python -u -m slurm.start /sweeps/small/logs/small-knn-IDENTITY
# ---- small-report-IDENTITY
#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterany:<small-pretrain-IDENTITY>:<small-linear-IDENTITY>:<small-knn-IDENTITY>'
#SBATCH --error=/sweeps/small/logs/small-report-IDENTITY/%j_0_log.err
#SBATCH --job-name=small-report-IDENTITY
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=8192M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/sweeps/small/logs/small-report-IDENTITY/%j_0_log.out
#SBATCH --qos=preemptible
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=30

# setup
export PYTHONPATH=/sweeps/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=PASSIVE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /sweeps/small/logs/small-report-IDENTITY/%j_%t_log.out --error /sweeps/small/logs/small-report-IDENTITY/%j_%t_log.err --cpus-per-task=2 --kill-on-bad-exit=1 python -u -m slurm.start /sweeps/small/logs/small-report-IDENTITY
