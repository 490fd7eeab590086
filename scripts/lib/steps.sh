# shellcheck shell=bash
# Runs steps in parallel: prints a line when a step starts and ends, logs its output, and ends all steps together.

declare -A STEP_PID=() STEP_VIEW=() STEP_START=() STEP_SECONDS=()
STEP_ORDER=()
# A terminal shows one line that changes; a log gets a line a minute.
HEARTBEAT_S=60
[[ ! -t 2 ]] || HEARTBEAT_S=1

step_log() { echo "$STEP_LOGS/$1.log"; }

# begin NAME COMMAND…: runs a step in the background, in a separate process group, so that its children end with it.
begin() {
    local name=$1
    shift
    STEP_START[$name]=$SECONDS
    STEP_ORDER+=("$name")
    say "$name: started"
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

# Shows the messages of our scripts; the rest of the output stays in the log.
SCRIPT_MESSAGE='^(engine|stand-in): '

follow() {
    local name=$1
    tail -n +1 -F --pid="${STEP_PID[$name]}" -s 0.3 "$(step_log "$name")" 2>/dev/null |
        sed -unE "s/$SCRIPT_MESSAGE/$ERASE    &/p" >&2 &
    STEP_VIEW[$name]=$!
}

still_runs() { [[ -n ${STEP_PID[$1]:-} ]] && kill -0 "${STEP_PID[$1]}" 2>/dev/null; }

show() {
    if [[ -n $ERASE ]]; then printf '%s%s: %s' "$ERASE" "$SCRIPT_NAME" "$*" >&2; else say "$*"; fi
}

heartbeat() {
    local name running=''
    for name in "${STEP_ORDER[@]}"; do
        ! still_runs "$name" || running+="${running:+, }$name $((SECONDS - STEP_START[$name])) s"
    done
    [[ -z $running ]] || show "still running: $running"
}

# finish NAME HINT: waits for a step. If it fails, the script prints the hint and ends.
finish() {
    local name=$1 hint=$2 rounds=0 code=0
    while still_runs "$name"; do
        sleep 0.2
        ((++rounds % (HEARTBEAT_S * 5))) || heartbeat
    done
    wait "${STEP_PID[$name]}" || code=$?
    wait "${STEP_VIEW[$name]}" || true
    unset "STEP_PID[$name]"
    STEP_SECONDS[$name]=$(($(cat "$(step_log "$name").end" || echo "$SECONDS") - STEP_START[$name]))
    if ((code)); then
        # The terminal already shows the messages of our scripts.
        ! grep -qvE "$SCRIPT_MESSAGE" "$(step_log "$name")" || log_tail "$(step_log "$name")"
        die "$name failed after ${STEP_SECONDS[$name]} s. $hint"
    fi
    say "$name: done in ${STEP_SECONDS[$name]} s"
}

end_steps() {
    local name
    for name in "${!STEP_PID[@]}"; do
        say "ending $name (a running package installation finishes first)"
        kill -TERM -- "-${STEP_PID[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}

step_times() {
    local name
    for name in "${STEP_ORDER[@]}"; do printf '%s %s s, ' "$name" "${STEP_SECONDS[$name]}"; done
}
