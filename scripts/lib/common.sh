# shellcheck shell=bash
# Shared functions of the scripts: paths, messages, processes.

CACHE=${JBUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/jbuild}
ENGINE_HOME=$CACHE/engine
# shellcheck disable=SC2034  # used by the other files
ENGINE_SOCKET=$ENGINE_HOME/docker.sock
# shellcheck disable=SC2034  # used by the other files
ENGINE_RECORD=$ENGINE_HOME/engine.json

# With this variable, every process of Python compiles all modules again: a second or two for each jbuild.
unset PYTHONDONTWRITEBYTECODE

# A message takes the place of the line that `show` wrote last; a log has no such lines.
ERASE=''
[[ ! -t 2 ]] || ERASE=$'\r\033[K'

say() { printf '%s%s: %s\n' "$ERASE" "${SCRIPT_NAME:-engine}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

is_root() { [[ $(id -u) -eq 0 ]]; }

os_field() { (
    # shellcheck source=/dev/null
    . /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""
); }

# write_file PATH: writes standard input to a temporary file and renames it, so that a reader never sees a partial file.
write_file() {
    local temporary
    temporary=$(mktemp "$1.XXXXXX")
    cat >"$temporary"
    chmod 0644 "$temporary"
    mv -f "$temporary" "$1"
}

# is_ours PID: true if the process is alive and was started on this engine home. Process IDs are reused after a reboot.
is_ours() {
    local pid=$1
    [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
    tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$ENGINE_HOME/"
}

pid_from() { [[ -s $1 ]] && head -n1 "$1"; }

runs() {
    local pid
    pid=$(pid_from "$1") && is_ours "$pid"
}

# until_true SECONDS COMMAND…: runs the command five times a second until it succeeds or the time is over.
until_true() {
    local rounds=$(($1 * 5))
    shift
    until "$@"; do
        ((rounds-- > 0)) || return 1
        sleep 0.2
    done
}

has_ended() { [[ ! -e /proc/$1 ]]; }

# end_process PID SECONDS: sends SIGTERM, and SIGKILL if the process still runs after the timeout.
end_process() {
    local pid=$1 seconds=$2
    kill -TERM "$pid" 2>/dev/null || return 0
    until_true "$seconds" has_ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
}

log_tail() {
    [[ -s $1 ]] || return 0
    say "the last lines of $1:"
    tail -n 15 "$1" | sed 's/^/    /' >&2
}
