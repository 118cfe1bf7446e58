# --- main: the steps

step=parse home=$PWD direct_io=null proof='' reasons=''
user_namespace='' reasons_text='' # only: auto
filesystem='' is_mount_point='' # only: rootless
# Process 1 gets no TERM unless it has a handler; dockerd sets its own.
trap 'exit 143' TERM INT
trap 'unexpected $?' EXIT
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || bad_input 'no command was given' 'usage: entrypoint.sh [--] COMMAND [ARGS...]'
parse "$@"
preflight
detect
kinds=$kind # only: choice
if [ "$kind" = auto ]; then choose; fi # only: auto
settle # only: choice
prepare # only: no-choice
verify # only: no-choice
each_below restore_mount # only: below
settle_containerd # only: containerd
tune
report
[ "$log" = error ] || printf '{"kata_dind":"info","step":"ready",%s}\n' "$facts" >&2
hand_over "$@"
