# shellcheck shell=bash
# Runs steps side by side: a line when one starts and ends, its output in a log, all of them ended together.

declare -A STEP_PID=() STEP_VIEW=() STEP_START=() STEP_SECONDS=()
STEP_ORDER=()
HEARTBEAT_S=20

step_log() { echo "$STEP_LOGS/$1.log"; }

# begin NAME COMMAND…: in the background, in a process group of its own so that all of it can be ended.
begin() {
    local name=$1
    shift
    STEP_START[$name]=$SECONDS
    STEP_ORDER+=("$name")
    say "$name: begins"
    : >"$(step_log "$name")"
    set -m
    (
        trap 'echo "$SECONDS" >"$(step_log "$name").end"' EXIT
        "$@"
    ) </dev/null >"$(step_log "$name")" 2>&1 &
    STEP_PID[$name]=$!
    set +m
    follow "$name"
}

# Shows the lines with which our own scripts speak; the rest stays in the log.
SPOKEN='^(engine|stand-in): '

follow() {
    local name=$1
    tail -n +1 -F --pid="${STEP_PID[$name]}" -s 0.3 "$(step_log "$name")" 2>/dev/null |
        sed -unE "s/$SPOKEN/    &/p" >&2 &
    STEP_VIEW[$name]=$!
}

still_runs() { [[ -n ${STEP_PID[$1]:-} ]] && kill -0 "${STEP_PID[$1]}" 2>/dev/null; }

heartbeat() {
    local name line=''
    for name in "${STEP_ORDER[@]}"; do
        ! still_runs "$name" || line+="${line:+, }$name $((SECONDS - STEP_START[$name])) s"
    done
    [[ -z $line ]] || say "still at work: $line"
}

# finish NAME WHAT-TO-DO: waits for a step; a failed one ends everything.
finish() {
    local name=$1 next=$2 rounds=0 code=0
    while still_runs "$name"; do
        sleep 0.2
        ((++rounds % (HEARTBEAT_S * 5))) || heartbeat
    done
    wait "${STEP_PID[$name]}" || code=$?
    wait "${STEP_VIEW[$name]}" || true
    unset "STEP_PID[$name]"
    STEP_SECONDS[$name]=$(($(cat "$(step_log "$name").end" || echo "$SECONDS") - STEP_START[$name]))
    if ((code)); then
        # What was spoken has been seen already.
        ! grep -qvE "$SPOKEN" "$(step_log "$name")" || log_tail "$(step_log "$name")"
        die "$name failed after ${STEP_SECONDS[$name]} s. $next"
    fi
    say "$name: done in ${STEP_SECONDS[$name]} s"
}

end_steps() {
    local name
    for name in "${!STEP_PID[@]}"; do
        say "ending $name (packages that are being installed are finished first)"
        kill -TERM -- "-${STEP_PID[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}

step_times() {
    local name
    for name in "${STEP_ORDER[@]}"; do printf '%s %s s, ' "$name" "${STEP_SECONDS[$name]}"; done
}
