# What the scenarios share. Each runs in a directory of its own, with the commands in PATH.

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# expect CODE COMMAND...: run a command, and fail unless it ends with this exit code.
expect() {
    wanted=$1
    shift
    code=0
    "$@" || code=$?
    [ "$code" -eq "$wanted" ] || fail "exit code $code instead of $wanted: $*"
}

# eventually COMMAND...: repeat a command until it succeeds. The runner ends a scenario that hangs.
eventually() {
    until "$@" 2>eventually.err; do
        sleep 0.1
    done
}

# serve OPTIONS...: run an exporter in the background, and set ADDRESS when it is ready.
serve() {
    mkfifo ready
    jmp run "$@" >ready &
    EXPORTER=$!
    trap 'kill "$EXPORTER" 2>/dev/null || true' EXIT
    read -r line <ready || fail "the exporter has not started"
    rm ready
    ADDRESS=${line#ready: }
}

# stop: end the exporter in the background, which must end well.
stop() {
    kill "$EXPORTER"
    wait "$EXPORTER" || fail "the exporter ended with $?"
    trap - EXIT
}
