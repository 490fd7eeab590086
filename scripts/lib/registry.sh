# shellcheck shell=bash
# A registry on loopback that stores its data in the engine home.

REGISTRY_PID=$ENGINE_HOME/registry.pid
REGISTRY_LOG=$ENGINE_HOME/registry.log

# http_status PORT PATH [ACCEPT]: prints the status code. It does not need curl.
http_status() { (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: %s\r\n\r\n' "$2" "${3:-*/*}" >&3
    read -r -t 10 _ code _ <&3 && printf '%s' "$code"
) 2>/dev/null; }

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

recorded_port() {
    sed -n 's/.*"registry": *"127\.0\.0\.1:\([0-9]*\)".*/\1/p' "$ENGINE_RECORD" 2>/dev/null
}

# Prefers the port of the last run if it is free: tags and mirror rules contain it.
choose_port() {
    local port
    for port in $(recorded_port) 5000 {5001..5099}; do
        if port_is_free "$port"; then
            echo "$port"
            return
        fi
    done
    die "the registry needs a free port, but 5000 to 5099 are all in use"
}

registry_answers() {
    local port
    port=$(recorded_port)
    [[ -n $port ]] && runs "$REGISTRY_PID" && [[ $(http_status "$port" /v2/) == 200 ]]
}

registry_packages() { command -v docker-registry >/dev/null || echo docker-registry; }

serves() { [[ $(http_status "$1" /v2/) == 200 ]]; }

start_registry() {
    local port pid
    ! runs "$REGISTRY_PID" || end_process "$(pid_from "$REGISTRY_PID")" 5
    port=$(choose_port)
    mkdir -p "$ENGINE_HOME/registry"
    write_file "$ENGINE_HOME/registry.yml" <<-END
		version: 0.1
		log:
		  level: warn
		storage:
		  filesystem:
		    rootdirectory: $ENGINE_HOME/registry
		  delete:
		    enabled: true
		http:
		  addr: 127.0.0.1:$port
	END
    nohup setsid docker-registry serve "$ENGINE_HOME/registry.yml" </dev/null >"$REGISTRY_LOG" 2>&1 9>&- &
    pid=$!
    echo "$pid" | write_file "$REGISTRY_PID"
    until_true 20 serves "$port" || {
        log_tail "$REGISTRY_LOG"
        die "the registry does not answer on 127.0.0.1:$port"
    }
    REGISTRY=127.0.0.1:$port
}

stop_registry() {
    if runs "$REGISTRY_PID"; then
        end_process "$(pid_from "$REGISTRY_PID")" 10
        say "registry stopped"
    fi
    rm -f "$REGISTRY_PID"
}
