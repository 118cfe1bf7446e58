# --- hand over: the command takes our place

hand_over() { # COMMAND...
	local dockerd slow_listener contradicts left behind word value own
	dockerd=
	if [ "$program" = dockerd ]; then # only: dockerd
		settle_driver
		find_dockerd "$@"
	fi
	if [ -n "$dockerd" ]; then # only: dockerd
		left=$# behind=''
		while [ "$left" -gt 0 ]; do
			word=$1
			shift
			left=$((left - 1))
			value=
			case $behind$word in
			.--storage-driver=* | .-s=*) value=${word#*=} ;;
			.--storage-driver | .-s) value=${1:-} ;;
			.-s*) value=${word#-s} ;;
			*dockerd | *dockerd-entrypoint.sh) behind=. ;;
			esac
			compare_driver "$value"
			if [ -z "$contradicts" ]; then
				set -- "$@" "$word"
				continue
			fi
			say_stripped "the storage driver $value"
			case $word in --storage-driver | -s) shift && left=$((left - 1)) ;; esac
		done
		[ -z "$slow_listener" ] || set -- "$@" --tls=false
		own=$containerd_address
		start_own_containerd
		[ "$containerd_address" = "$own" ] || set -- "$@" "--containerd=$containerd_address"
	fi
	trap - EXIT
	exec "$@"
}

# COMMAND...: sets `dockerd` when the command is dockerd's, and `slow_listener` when it would wait before it listens.
# Without TLS dockerd waits 16 s, so that its warning may be read; and 1 s when it is told that TLS is not wanted.
find_dockerd() {
	local tls before word
	dockerd='' slow_listener='' tls='' before=''
	for word in "$@"; do
		case $before,$word in
		*,dockerd | *,*/dockerd) dockerd=dockerd ;;
		*,dockerd-entrypoint.sh | *,*/dockerd-entrypoint.sh) dockerd=entrypoint ;;
		*dockerd-entrypoint.sh,[!-]*) dockerd='' ;; # which then runs another program
		*,--tls | *,--tls=* | *,--tlsverify | *,--tlsverify=*) tls=1 ;;
		*,tcp://* | *,--host=tcp://* | *,-H=tcp://* | *,-Htcp://*) slow_listener=1 ;;
		esac
		before=$word
	done
	# The official entrypoint adds a listener unless its command names dockerd; with TLS if it has a directory for that.
	[ "$dockerd" != entrypoint ] || [ -n "${DOCKER_TLS_CERTDIR:-}" ] || slow_listener=1
	case $tls$config in 1* | *'"tls"'* | *'"tlsverify"'*) slow_listener= ;; esac
}

settle_driver() { # the storage driver that the environment or daemon.json names
	local contradicts
	compare_driver "${DOCKER_DRIVER:-}"
	if [ -n "$contradicts" ]; then
		say_stripped "DOCKER_DRIVER=$DOCKER_DRIVER"
		unset DOCKER_DRIVER
	fi
	# The file is the user's, but dockerd takes the variable first.
	compare_driver "$config_driver"
	if [ -z "${DOCKER_DRIVER:-}" ] && [ -n "$contradicts" ]; then
		say_stripped "the storage driver $config_driver of $config_file"
		DOCKER_DRIVER=overlay2
		[ -z "$containerd_store" ] || DOCKER_DRIVER=overlayfs
		export DOCKER_DRIVER
	fi
	[ -z "$driver" ] || export "DOCKER_DRIVER=$driver" # only: fallback
}

compare_driver() { # STORAGE_DRIVER: sets `contradicts` when it is not what was proven
	contradicts=1
	case $1 in
	'' | "$driver" | "$fallback") contradicts= ;; # KATA_DIND_FALLBACK calls it good enough
	@UNPROVEN_DRIVERS@) ;;
	@FILESYSTEM_DRIVERS@) [ "$filesystem" != "$1" ] || contradicts= ;;
	*) [ -n "$driver" ] || contradicts= ;;
	esac
	# Without the driver, the images that it has made would be out of sight.
	[ ! -d "$path/image/$1" ] || contradicts=
}

say_stripped() { # WHAT
	warn exec "left out $1, because ${driver:-overlay} is what works on this data root" 'remove it'
}
