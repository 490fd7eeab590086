# shellcheck shell=bash
# What the scripts share: where things lie, how it speaks, how it looks at processes.

CACHE=${JBUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/jbuild}
ENGINE_HOME=$CACHE/engine
# shellcheck disable=SC2034  # used by the parts
ENGINE_SOCKET=$ENGINE_HOME/docker.sock
# shellcheck disable=SC2034  # used by the parts
ENGINE_RECORD=$ENGINE_HOME/engine.json

say() { printf '%s: %s\n' "${SPEAKER:-engine}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

is_root() { [[ $(id -u) -eq 0 ]]; }

os_field() { (
    # shellcheck source=/dev/null
    . /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""
); }

# Writes standard input aside and renames it, so that a reader never sees half of it.
write_file() {
    local aside
    aside=$(mktemp "$1.XXXXXX")
    cat >"$aside"
    chmod 0644 "$aside"
    mv -f "$aside" "$1"
}

# True when PID is alive and was started on our engine home: pids are reused after a reboot.
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

# until_true SECONDS COMMAND…: asks five times a second.
until_true() {
    local rounds=$(($1 * 5))
    shift
    until "$@"; do
        ((rounds-- > 0)) || return 1
        sleep 0.2
    done
}

gone() { [[ ! -e /proc/$1 ]]; }

# Asks a process of ours to end, and after SECONDS makes it.
end_process() {
    local pid=$1 seconds=$2
    kill -TERM "$pid" 2>/dev/null || return 0
    until_true "$seconds" gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
}

log_tail() {
    [[ -s $1 ]] || return 0
    say "the last lines of $1:"
    tail -n 15 "$1" | sed 's/^/    /' >&2
}
