#!/usr/bin/env bash
# Stop what up.sh started, by the process ids on record and by nothing else. --wipe also removes its files.
set -uo pipefail
PREFIX=${SLURM_TEST_PREFIX:-${TMPDIR:-/tmp}/salmask-slurm}
export SLURM_CONF=$PREFIX/etc/slurm.conf
status=0
. "$(dirname "$0")/daemons.sh"

# Jobs first: their processes outlive slurmd.
nodes=$(cd "$PREFIX/pids" 2>/dev/null && ls -d slurmd-* 2>/dev/null)
if running slurmctld && [ -n "$nodes" ]; then
  for partition in low abrupt high all; do timeout 10 scancel -p $partition >/dev/null 2>&1; done
  for ((tick = 0; tick < 150; tick++)); do
    [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
    sleep 0.2
  done
fi
for daemon in $nodes slurmctld slurmdbd mariadbd munged; do
  if running $daemon; then
    process=$(cat "$PREFIX/pids/$daemon")
    kill "$process"
    for ((tick = 0; tick < 300; tick++)); do
      running $daemon || break
      sleep 0.1
    done
    if running $daemon; then
      echo "$daemon ($process) ignored SIGTERM for 30 s: SIGKILL" >&2
      kill -9 "$process"
      status=1
    fi
  fi
  rm -f "$PREFIX/pids/$daemon"
done
for file in slurm.conf gres.conf; do
  [ "$(readlink "/etc/slurm/$file" 2>/dev/null)" = "$PREFIX/etc/$file" ] && rm -f "/etc/slurm/$file"
done
if grep -q '# salmask-slurm$' /etc/hosts; then # written in place: it may be a bind mount
  hosts=$(grep -v '# salmask-slurm$' /etc/hosts)
  printf '%s\n' "$hosts" >/etc/hosts
fi
if [ "${1:-}" = --wipe ]; then rm -rf "$PREFIX"; fi
exit $status
