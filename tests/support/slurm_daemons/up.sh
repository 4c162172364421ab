#!/usr/bin/env bash
# Start a real Slurm on this machine: root, Debian's packages, loopback only, no systemd. For tests; see slurm_cluster.py.
# Of several nodes each is a slurmd with a port of its own (Debian's is built with --enable-multiple-slurmd).
#   up.sh [--no-accounting]     without it: no slurmdbd, so sacct has nothing to tell
# Can be repeated: installs what is missing, starts what is not running. Then `export SLURM_CONF=$SLURM_TEST_PREFIX/etc/slurm.conf`.
# Exit 0: the node takes jobs. 77: Slurm cannot run here, the last line of stderr says why. 1: it should, but does not.
# Knobs (environment): SLURM_TEST_PREFIX, _NODES, _CPUS, _GPUS, _MEMORY_MB, _PORT, _FORGET_SECONDS
set -euo pipefail

PREFIX=${SLURM_TEST_PREFIX:-${TMPDIR:-/tmp}/salmask-slurm}
NODES=${SLURM_TEST_NODES:-1}              # the second is NAME-2 …; only the partition "all" has them, only the first GPUs
CPUS=${SLURM_TEST_CPUS:-16}               # of a node; more than there are: jobs of tests mostly wait
GPUS=${SLURM_TEST_GPUS:-2}
MEMORY_MB=${SLURM_TEST_MEMORY_MB:-65536}  # declared, not enforced
PORT=${SLURM_TEST_PORT:-16817}            # slurmctld; slurmd = +1; slurmdbd = +2; second slurmd = +3 …
FORGET=${SLURM_TEST_FORGET_SECONDS:-300}  # how long squeue knows a job that ended
ACCOUNTING=1
for argument in "$@"; do
  case $argument in
    --no-accounting) ACCOUNTING=0 ;;
    *) echo "unknown argument: $argument" >&2; exit 2 ;;
  esac
done

LOG=$PREFIX/log PIDS=$PREFIX/pids STATE=$PREFIX/state ETC=$PREFIX/etc MUNGE=$PREFIX/munge DB=$PREFIX/mysql RUN=$PREFIX/run
HOST=$(hostname) NODE=$(hostname -s)
BIRTH_SECONDS=10 # for so long exec may still be under way on a busy machine
START=$(date +%s%N)
say() { printf '[slurm %5.1fs] %s\n' "$((($(date +%s%N) - START) / 100000000))e-1" "$*"; }
cannot() { echo "$*" >&2; exit 77; }
fail() { # fail REASON LOGFILE...
  local log
  for log in "${@:2}"; do
    if [ -s "$log" ]; then { echo "--- the end of $log"; tail -n 15 "$log"; } >&2; fi
  done
  echo "$1" >&2
  exit 1
}
. "$(dirname "$0")/daemons.sh"
start() { # start NAME COMMAND...: in the background, detached, its process id on record
  local name=$1
  shift
  setsid "$@" >"$LOG/$name.out" 2>&1 </dev/null &
  echo $! >"$PIDS/$name"
}
ready() { # ready NAME SECONDS COMMAND...: until COMMAND succeeds; fails at once when the daemon dies
  local name=$1 end=$(($(date +%s) + $2)) born=$(($(date +%s) + BIRTH_SECONDS))
  shift 2
  until "$@" >/dev/null 2>&1; do
    running "$name" || [ "$(date +%s)" -le "$born" ] || fail "$name died at its start" "$LOG/$name.out" "$LOG/$name.log"
    [ "$(date +%s)" -lt "$end" ] || fail "$name does not answer" "$LOG/$name.out" "$LOG/$name.log"
    sleep 0.1
  done
  say "$name is up (process $(cat "$PIDS/$name"))"
}

# ------------------------------------------------------------------------------------------------ can it run here?
[ "$(id -u)" = 0 ] || cannot "not root: slurmd starts the jobs of all users"
[ "$(uname)" = Linux ] || cannot "not Linux"
for file in slurm.conf gres.conf; do
  if [ -e "/etc/slurm/$file" ] && [ ! -L "/etc/slurm/$file" ]; then cannot "this machine has a Slurm of its own (/etc/slurm/$file)"; fi
done

packages="munge slurmctld slurmd slurm-client"
[ "$ACCOUNTING" = 1 ] && packages="$packages slurmdbd mariadb-server-core"
missing=()
for package in $packages; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
mkdir -p "$PREFIX"
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || cannot "no apt-get to install ${missing[*]} with"
  say "installing ${missing[*]}"
  policy= # the packages must not start their services
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  apt() { DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -o DPkg::Lock::Timeout=120 "$@" >>"$PREFIX/apt.log" 2>&1; }
  install() { apt install -y --no-install-recommends "${missing[@]}"; }
  installed=1
  install || { apt update && install; } || installed=
  [ -z "$policy" ] || rm -f "$policy"
  [ -n "$installed" ] || cannot "apt-get cannot install ${missing[*]}: $(grep -m 1 '^E:' "$PREFIX/apt.log" || tail -n 1 "$PREFIX/apt.log")"
  say "installed"
fi

# Every daemon, and srun, binds to what the host's name resolves to (NoInAddrAny below): that must be loopback.
address() { getent ahostsv4 "$HOST" 2>/dev/null | awk 'NR == 1 {print $1}'; }
if [ -z "$(address)" ]; then
  [ -z "$(tail -c 1 /etc/hosts)" ] || echo >>/etc/hosts
  echo "127.0.0.1 $HOST # salmask-slurm" >>/etc/hosts # down.sh takes it out again
fi
case $(address) in
  127.*) ;;
  '') cannot "the host's name $HOST does not resolve, although it is in /etc/hosts" ;;
  *) cannot "the host's name $HOST resolves to $(address), not to loopback" ;;
esac

# ------------------------------------------------------------------------------------------------ configuration
umask 022
mkdir -p "$LOG" "$PIDS" "$RUN" "$STATE/slurmctld" "$ETC" "$MUNGE" "$PREFIX/dev" /etc/slurm
# Stand-ins for GPUs: slurmd wants character devices, and the number at the end becomes CUDA_VISIBLE_DEVICES.
for ((gpu = 0; gpu < GPUS; gpu++)); do ln -sfn /dev/null "$PREFIX/dev/nvidia$gpu"; done
# munged refuses a key or a socket in a folder that others may write to.
[ -s "$MUNGE/munge.key" ] || dd if=/dev/urandom of="$MUNGE/munge.key" bs=128 count=1 status=none
chown munge:munge "$MUNGE" "$MUNGE/munge.key"
chmod 0755 "$MUNGE"
chmod 0400 "$MUNGE/munge.key"

# A fresh cluster would count from job 1 again, and what an earlier one left behind would pass for these jobs' files.
[ -s "$STATE/first_job" ] || echo $(($(date +%s) / 10 % 60000000 + 1000)) >"$STATE/first_job"
if [ "$ACCOUNTING" = 1 ]; then
  # AccountingStoragePass: with munge, the socket by which slurmdbd is spoken to (AuthInfo is not used for it).
  accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$MUNGE/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5"
else
  accounting="AccountingStorageType=accounting_storage/none"
fi
others= # nodes but the first
for ((number = 2; number <= NODES; number++)); do
  others+="NodeName=$NODE-$number NodeHostname=$NODE NodeAddr=127.0.0.1 Port=$((PORT + number + 1)) CPUs=$CPUS RealMemory=$MEMORY_MB State=UNKNOWN"$'\n'
done
cat >"$ETC/slurm.conf.new" <<CONF
ClusterName=salmask
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=$PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again (else 120 s)
AuthInfo=socket=$MUNGE/munge.socket,cred_expire=5
StateSaveLocation=$STATE/slurmctld
SlurmdSpoolDir=$STATE/slurmd-%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd-%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
# no cgroups: they may not be ours to make
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
# short waits
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
KillWait=5
CompleteWait=0
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
MinJobAge=$FORGET
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
MaxArraySize=1001
FirstJobId=$(cat "$STATE/first_job")
# A job of "high" makes jobs of "low" and "abrupt" go back to the queue. Those of "low" are sent USR2 first and have
# GraceTime to save what they have; those of "abrupt" are killed, as on clusters that were not told to be kind.
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
$accounting
NodeName=$NODE NodeHostname=$NODE NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=$CPUS RealMemory=$MEMORY_MB Gres=gpu:$GPUS State=UNKNOWN
${others}PartitionName=low    Nodes=$NODE Default=YES MaxTime=INFINITE PriorityTier=1  PreemptMode=REQUEUE GraceTime=20
PartitionName=abrupt Nodes=$NODE Default=NO  MaxTime=INFINITE PriorityTier=1  PreemptMode=REQUEUE GraceTime=0
PartitionName=high   Nodes=$NODE Default=NO  MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=all    Nodes=ALL   Default=NO  MaxTime=INFINITE PriorityTier=1  PreemptMode=OFF
CONF
if running slurmctld && ! cmp -s "$ETC/slurm.conf.new" "$ETC/slurm.conf"; then
  fail "a cluster with another configuration runs under $PREFIX; stop it first: $(dirname "$0")/down.sh"
fi
mv -f "$ETC/slurm.conf.new" "$ETC/slurm.conf"
echo "NodeName=$NODE Name=gpu File=$PREFIX/dev/nvidia[0-$((GPUS - 1))]" >"$ETC/gres.conf"
cat >"$ETC/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
CommunicationParameters=NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$MUNGE/munge.socket
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$RUN/slurmdbd.pid
LogFile=$LOG/slurmdbd.log
DebugLevel=info
CONF
chmod 0600 "$ETC/slurmdbd.conf" # slurmdbd insists
export SLURM_CONF=$ETC/slurm.conf
# submitit drops SLURM_CONF where a job submits another: the usual place must lead here too.
for file in slurm.conf gres.conf; do ln -sfn "$ETC/$file" "/etc/slurm/$file"; done

# ------------------------------------------------------------------------------------------------ daemons
if ! running munged; then
  rm -f "$MUNGE"/munge.socket*
  start munged setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --foreground \
    --socket="$MUNGE/munge.socket" --key-file="$MUNGE/munge.key" --pid-file="$MUNGE/munged.pid" \
    --log-file="$MUNGE/munged.log" --seed-file="$MUNGE/munged.seed"
fi
ready munged 20 munge -S "$MUNGE/munge.socket" -n

if [ "$ACCOUNTING" = 1 ]; then
  if ! running mariadbd; then
    if [ ! -d "$DB/mysql" ]; then
      # What mariadb-install-db does; that script wants programs that mariadb-server-core does not bring.
      rm -rf "$DB.new"
      mkdir -m 0700 "$DB.new"
      sql=/usr/share/mysql
      {
        printf '%s\n' "create database if not exists mysql;" "use mysql;" "SET @auth_root_socket='root';"
        cat $sql/mysql_system_tables.sql $sql/mysql_performance_tables.sql $sql/mysql_system_tables_data.sql
      } | mariadbd --no-defaults --bootstrap --user=root --datadir="$DB.new" --innodb-log-file-size=64M \
        --log-warnings=0 --enforce-storage-engine= --max_allowed_packet=8M >"$LOG/mariadb-install.log" 2>&1 \
        || fail "the tables of mariadb cannot be made" "$LOG/mariadb-install.log"
      mv "$DB.new" "$DB"
    fi
    rm -f "$DB/mysql.sock"
    # No TCP at all; root comes in as the socket's owner.
    start mariadbd /usr/sbin/mariadbd --no-defaults --user=root --datadir="$DB" --socket="$DB/mysql.sock" \
      --pid-file="$RUN/mariadbd.pid" --skip-networking --innodb-buffer-pool-size=128M --innodb-log-file-size=64M \
      --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF
  fi
  ready mariadbd 60 test -S "$DB/mysql.sock"
  running slurmdbd || start slurmdbd env MYSQL_UNIX_PORT="$DB/mysql.sock" /usr/sbin/slurmdbd -D
  ready slurmdbd 60 sacctmgr -n show cluster
fi

running slurmctld || start slurmctld /usr/sbin/slurmctld -D
ready slurmctld 60 sh -c "scontrol ping | grep -q 'is UP'"
names=("$NODE")
for ((number = 2; number <= NODES; number++)); do names+=("$NODE-$number"); done
for name in "${names[@]}"; do
  running "slurmd-$name" || start "slurmd-$name" /usr/sbin/slurmd -D -N "$name"
done
end=$(($(date +%s) + 60)) born=$(($(date +%s) + BIRTH_SECONDS)) resumed=
for name in "${names[@]}"; do
  log="$LOG/slurmd-$name.log"
  while :; do
    state=$(sinfo -h -N -n "$name" -p all -o %T 2>/dev/null || true)
    case $state in
      idle | mixed | allocated) break ;;
      down* | drain* | inval*) # left over from an earlier start
        [[ " $resumed " = *" $name "* ]] || { scontrol update nodename="$name" state=resume >/dev/null 2>&1 || true; }
        resumed="$resumed $name"
        ;;
    esac
    running "slurmd-$name" || [ "$(date +%s)" -le "$born" ] || fail "slurmd of $name died at its start" "$LOG/slurmd-$name.out" "$log"
    [ "$(date +%s)" -lt "$end" ] || fail "$name takes no jobs after 60 s: $(sinfo -h -N -n "$name" -p all -o '%T, %E' 2>&1 | head -n 1)" "$LOG/slurmctld.log" "$log"
    sleep 0.1
  done
  say "slurmd is up (process $(cat "$PIDS/slurmd-$name")), node $name is $state"
done
