# --- main: the steps

# Process 1 gets no TERM unless it has a handler; dockerd sets its own.
trap 'exit 143' TERM INT
trap 'unexpected $?' EXIT
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || bad_input 'no command was given' 'usage: entrypoint.sh [--] COMMAND [ARGS...]'
parse "$@"
preflight
detect
kinds=$kind reasons='' reasons_text=''
if [ "$kind" = auto ]; then choose; fi # only: auto
settle
settle_system_containerd # only: containerd
tune
report
say_ready
hand_over "$@"
