# --- hand over: dockerd's own containerd, started before it

# dockerd gives the containerd that it starts 15 s, which nothing can change and a slow guest needs more than; and it
# looks once a second whether it is there. So it is started here, with what dockerd would tell it, and dockerd gets its
# address. See https://github.com/moby/moby/blob/v28.5.2/libcontainerd/supervisor/remote_daemon.go; 20.10 and 29 agree.
start_containerd() { # sets `socket` to its address when it listens, and empties it if not
	socket='' state=/run/docker/containerd
	[ "$user" = 0 ] || return 0 # only: rootless
	[ -z "$uses_containerd${DOCKER_CONTAINERD_ROOT:-}" ] && command -v containerd >/dev/null || return 0
	# shellcheck disable=SC2174 # both directories are named, so both get the mode
	{
		mkdir -p -m 0700 /run/docker $state && cd $state && rm -f containerd.sock pipe &&
			mkfifo pipe && echo . >starting && echo 'version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[debug]
address = ""' >containerd.toml
	} 2>/dev/null || {
		warn "cannot write to $state" 'make /run writable'
		return 0
	}
	# The keeper, like dockerd, starts containerd again when it ends, and ends it when the command has ended: only the
	# command has descriptor 8 open. It is a session of its own: without containerd dockerd can't stop containers, so no
	# signal for dockerd's process group may end it first. The file `starting` is not empty until containerd has
	# listened; one that ends before that is not started again. Its script has no blank line and no comment, which a copy
	# lacks.
	exec 8<>pipe
	# shellcheck disable=SC2016 # the inner shell's variables
	setsid sh -c '
		unset NOTIFY_SOCKET
		{
			while containerd -c containerd.toml --root "$1/containerd/daemon" --state "$PWD/daemon" -a "$PWD/containerd.sock"
				[ ! -s starting ]
			do
				sleep 1
			done
			: >starting
		} 7<&- &
		read -r _ <&7
		kill 0
		' sh "$path" 7<pipe 8>&- &
	tries=1
	until [ -S containerd.sock ]; do
		if [ ! -s starting ] || [ $tries = 600 ]; then
			exec 8>&-
			warn 'containerd did not start, so dockerd will start one' 'see the lines above'
			return 0
		fi
		# On a fast machine it listens after 50 ms; an emulated one is not to spend its time on looking.
		sleep 0.$tries 2>/dev/null || sleep 1
		tries=$((tries + 1))
	done
	: >starting
	socket=$state/containerd.sock
}
