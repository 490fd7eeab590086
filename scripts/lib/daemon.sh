# shellcheck shell=bash
# The dockerd of scripts/engine: a plain process that keeps all its files in the engine home.

ENGINE_PID=$ENGINE_HOME/docker.pid
ENGINE_LOG=$ENGINE_HOME/docker.log
# The bridge belongs to this engine home: another home may run another engine.
BRIDGE=jb-$(cksum <<<"$ENGINE_HOME" | cut -d' ' -f1)

ours() { DOCKER_HOST=unix://$ENGINE_SOCKET DOCKER_CONTEXT='' "$@"; }

answers() { timeout 15 docker version --format '{{.Server.Version}}' 2>/dev/null; }

our_engine_answers() { [[ -S $ENGINE_SOCKET ]] && ours answers >/dev/null; }

# True if the user's docker command reaches an engine other than ours.
users_engine_answers() {
    command -v docker >/dev/null || return 1
    [[ ${DOCKER_HOST:-} != "unix://$ENGINE_SOCKET" ]] && answers >/dev/null && has_buildx
}

has_buildx() { command -v docker >/dev/null && docker buildx version >/dev/null 2>&1; }

engine_is_recent() {
    local version
    command -v dockerd >/dev/null || return 1
    version=$(dockerd --version | sed -n 's/^Docker version \([0-9]*\).*/\1/p')
    [[ ${version:-0} -ge 24 ]]
}

engine_packages() {
    local packages=()
    engine_is_recent || packages+=(docker.io containerd)
    command -v docker >/dev/null || [[ $(os_field ID) == ubuntu ]] || packages+=(docker-cli)
    has_buildx || packages+=(docker-buildx)
    command -v iptables >/dev/null || packages+=(iptables)
    command -v ip >/dev/null || packages+=(iproute2)
    echo "${packages[@]}"
}

# The engine needs a separate bridge: docker0 may belong to another engine, running or not.
make_bridge() {
    ip link show "$BRIDGE" >/dev/null 2>&1 && return
    local net routes
    routes=$(ip -4 route show)
    for net in 10.213 172.30 192.168; do
        grep -qE "(^|via )${net/./\\.}\." <<<"$routes" || break
    done
    ip link add "$BRIDGE" type bridge
    ip addr add "$net.97.1/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
}

write_daemon_config() {
    write_file "$ENGINE_HOME/daemon.json" <<-END
		{
		  "data-root": "$ENGINE_HOME/data",
		  "exec-root": "$ENGINE_HOME/exec",
		  "pidfile": "$ENGINE_PID",
		  "hosts": ["unix://$ENGINE_SOCKET"],
		  "bridge": "$BRIDGE",
		  "features": {"containerd-snapshotter": true}
		}
	END
}

# True if the engine answers, or if it has ended before it could answer.
has_settled() { our_engine_answers || { [[ -n $1 ]] && has_ended "$1"; }; }

start_engine() {
    local started=''
    ((${#ENGINE_HOME} <= 70)) || die "$ENGINE_HOME is too long for socket paths: set JBUILD_CACHE to a shorter path"
    runs "$ENGINE_PID" || rm -f "$ENGINE_PID" "$ENGINE_SOCKET"
    if ! [[ -e $ENGINE_PID ]]; then
        make_bridge
        write_daemon_config
        # Containers inherit the limit, and vLLM needs this many open files.
        ulimit -n 65536 2>/dev/null || true
        # Separate namespaces: on some machines, dockerd shares the system's containerd.
        nohup setsid dockerd --config-file "$ENGINE_HOME/daemon.json" --containerd-namespace jbuild \
            --containerd-plugins-namespace jbuild-plugins </dev/null >"$ENGINE_LOG" 2>&1 9>&- &
        started=$!
    fi
    until_true 60 has_settled "$started" && our_engine_answers && return
    log_tail "$ENGINE_LOG"
    die "the engine does not answer; see the full log: $ENGINE_LOG"
}

# Prints the process IDs of our dockerd, and of the children that a killed dockerd leaves behind.
our_processes() {
    local dir
    for dir in /proc/[0-9]*; do
        case $(cat "$dir/comm" 2>/dev/null) in
        dockerd | containerd | containerd-shim* | docker-registry) is_ours "${dir#/proc/}" && echo "${dir#/proc/}" ;;
        esac
    done
    return 0
}

unmount_leftovers() {
    local target
    awk -v home="$ENGINE_HOME/" 'index($2, home) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r target; do umount -l "$target" || true; done
}

stop_engine() {
    local pid
    if runs "$ENGINE_PID"; then
        end_process "$(pid_from "$ENGINE_PID")" 30
        say "engine stopped"
    else
        say "engine is not running"
    fi
    for pid in $(our_processes); do end_process "$pid" 5; done
    rm -f "$ENGINE_PID" "$ENGINE_SOCKET"
    unmount_leftovers
    ! ip link show "$BRIDGE" >/dev/null 2>&1 || ip link delete "$BRIDGE" || true
}
