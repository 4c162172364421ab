# Sourced by up.sh and down.sh: whether a daemon that is on record runs. Expects PREFIX.
running() { # running NAME, or slurmd-NODE: the recorded process exists, is that program, and no zombie
  local process
  process=$(cat "$PREFIX/pids/$1" 2>/dev/null) && [ -n "$process" ] \
    && [ "$(cat "/proc/$process/comm" 2>/dev/null)" = "${1%%-*}" ] \
    && ! grep -q '^State:.*Z' "/proc/$process/status" 2>/dev/null
}
