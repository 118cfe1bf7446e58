# --- hand over: dockerd's own containerd, started before it

# dockerd gives the containerd that it starts 15 s, which nothing can change and a slow guest needs more than; and it
# looks once a second whether it is there. So it is started here, with what dockerd would tell it, and dockerd gets its
# address. See https://github.com/moby/moby/blob/v28.5.2/libcontainerd/supervisor/remote_daemon.go; 20.10 and 29 agree.
start_own_containerd() { # sets `containerd_address` when it listens
	local state socket tries word prepared
	[ "$user$containerd_address${DOCKER_CONTAINERD_ROOT:-}" = 0 ] || return 0
	command -v containerd >/dev/null && command -v setsid >/dev/null || return 0
	state=$exec_root/containerd
	socket=$state/containerd.sock
	prepare_containerd
	if [ -z "$prepared" ]; then
		warn exec "cannot write to $state" 'give the container a writable /run'
		return 0
	fi
	keep_containerd
	tries=0 word=
	until [ -S "$socket" ]; do
		read -r word <"$state/kata-dind" || :
		if [ "$word" = ended ] || [ $tries = 1200 ]; then
			exec 8>&-
			warn exec 'containerd did not start, so dockerd will start it itself' 'see the lines above'
			return 0
		fi
		# On a fast machine it listens after 50 ms; an emulated one is not to spend its time on looking.
		tries=$((tries + 1))
		if [ $tries -lt 10 ]; then sleep 0.02; else sleep 0.25; fi 2>/dev/null || sleep 1
	done
	printf 'up\n' >"$state/kata-dind"
	containerd_address=$socket
	info exec "containerd listens on $socket"
}

# shellcheck disable=SC2174 # both directories are named, so both get the mode
prepare_containerd() { # sets `prepared` if that could be done
	local escaped root
	prepared=
	escape "$path/containerd/daemon"
	root=$escaped
	escape "$state"
	[ ! -e "$socket" ] || rm -f -- "$socket"
	mkdir -p -m 0700 -- "$exec_root" "$state" 2>/dev/null || return 0
	[ -p "$state/kata-dind.pipe" ] || mkfifo -m 0600 "$state/kata-dind.pipe" 2>/dev/null || return 0
	{
		printf 'starting\n' >"$state/kata-dind" &&
			printf '%s\n' 'version = 2' "root = \"$root\"" "state = \"$escaped/daemon\"" \
				'disabled_plugins = ["io.containerd.grpc.v1.cri"]' '[grpc]' "address = \"$escaped/containerd.sock\"" \
				'[debug]' "address = \"$escaped/containerd-debug.sock\"" "level = \"$log_level\"" >"$state/containerd.toml"
	} 2>/dev/null || return 0
	prepared=1
}

# The keeper, like dockerd, starts containerd again when it ends, and ends it when the command has ended: only the
# command has descriptor 8 open. It is a session of its own: without containerd dockerd can't stop containers, so no
# signal for dockerd's process group may end it first. Its script has no blank line and no comment, which a copy lacks.
# shellcheck disable=SC2016 # the inner shell's variables
keep_containerd() {
	exec 8<>"$state/kata-dind.pipe"
	setsid sh -c '
		unset NOTIFY_SOCKET
		(
			end() {
				kill $pid
				exit
			}
			trap end TERM
			while :; do
				containerd --config "$1/containerd.toml" &
				pid=$!
				wait $pid
				pid= word=
				read -r word <"$1/kata-dind"
				[ "$word" = up ] || break
				sleep 0.5 2>/dev/null || sleep 1
			done
			echo ended >"$1/kata-dind"
		) 7<&- &
		read -r word <&7
		kill $!
		' sh "$state" 7<"$state/kata-dind.pipe" 8>&- &
}
