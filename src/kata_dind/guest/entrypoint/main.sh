# --- main: the steps

# A process 1 takes no TERM without a handler; dockerd brings its own.
trap 'exit 143' TERM INT
trap 'unexpected $?' EXIT
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || bad_input 'no command was given' 'usage: entrypoint.sh [--] COMMAND [ARGS...]'
parse "$@"
detect
choose
settle
tune
report
[ "${KATA_DIND_LOG:-info}" = error ] || printf '{"kata_dind":"info","step":"ready",%s}\n' "$facts" >&2
hand_over "$@"
