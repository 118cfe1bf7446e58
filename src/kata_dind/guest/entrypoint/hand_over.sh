# --- hand over: the command takes our place

hand_over() { # COMMAND...
	step='exec'
	settle_driver # only: dockerd
	if [ -n "$dockerd" ]; then # only: dockerd
		start_containerd
		set -- "$@" $slow_listener ${socket:+"--containerd=$socket"}
		# tini, as the official images have it, unblocks TERM while it waits for it, so Kata's agent takes it for one that
		# does not handle TERM, and sends KILL. Whoever ignores TERM gets it; tini does all the same, and dockerd.
		case $1 in *d-entrypoint.sh | *tini* | *-init) trap '' TERM ;; esac
	fi
	go_back
	trap - EXIT
	exec "$@"
}

# A storage driver that is not what was proven is overruled: dockerd takes the variable first.
settle_driver() {
	[ "$program" = dockerd ] || return 0 # only: other-programs
	case $named_driver in
	"$fallback") return 0 ;; # only: fallback
	@UNPROVEN_DRIVERS@) ;;
	@FILESYSTEM_DRIVERS@) [ "$filesystem" != "$named_driver" ] || return 0 ;; # only: virtiofs
	*) return 0 ;;
	esac
	# Without the driver, the images that it has made would be out of sight.
	[ ! -d "$path/image/$named_driver" ] || return 0
	warn "the storage driver $named_driver is overruled, for overlay works here" 'remove it'
	[ "$named_driver" != native ] || overlay=overlayfs # which is containerd's as well
	export "DOCKER_DRIVER=$overlay"
}
