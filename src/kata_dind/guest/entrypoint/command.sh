# --- parse: what the user, the command and daemon.json say

# Sets `user` to the user's number, and `default_data_root`, `config_file` and `status_dir` to what a user has who is not
# root.
find_user() {
	while read -r key _ user _; do
		[ "$key" != Uid: ] || break
	done </proc/self/status
	[ "$user" != 0 ] || return 0
	default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/docker
	config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/docker/daemon.json
	status_dir=${KATA_DIND_STATUS_DIR:-${XDG_RUNTIME_DIR:-/tmp}/kata-dind}
}

# Sets `dockerd` when the command is dockerd's, `starts_system` when it starts an init system, and `data_root`,
# `config_file` and `named_driver` from its flags.
read_command() { # COMMAND...
	dockerd='' starts_system='' data_root='' named_driver='' before=--
	for word in "$@"; do
		case $word in
		--*=*) flag=${word%%=*} value=${word#*=} ;;
		-[gs]?*) flag=${word%"${word#??}"} value=${word#??} value=${value#=} ;;
		*) flag=$before value=$word ;;
		esac
		case ${dockerd:+.}$flag in
		*--data-root | .-g) data_root=$value ;;
		*--config-file) config_file=$value ;;
		.--storage-driver | .-s) named_driver=$value ;;
		esac
		case $before,/$word in # docker-init.sh is of dev containers' feature docker-in-docker
		--,*/init | --,*/systemd | --,*/docker-init.sh) starts_system=$(command -v containerd) || : ;;
		*,*/dockerd) dockerd=dockerd ;;
		*,*/dockerd-entrypoint.sh) dockerd=entrypoint ;;
		*dockerd-entrypoint.sh,/[!-]*) dockerd='' ;; # which then runs another program
		@OTHER_PATTERNS@) # only: no-other-programs
			[ -n "$dockerd${KATA_DIND_PROGRAM:-}" ] || bad_input "the command starts $word, but this file serves dockerd" \
				'use: kata-dind entrypoint --program NAME, or set KATA_DIND_PROGRAM=dockerd'
			;;
		esac
		before=$word
	done
}

# Adds what daemon.json says. Sets `said` to all that both say, and from that `slow_listener` when dockerd would wait
# before it listens, `overlay` to the name that the proven storage driver has, `named_driver`, and `uses_containerd` when
# dockerd is told of a containerd, or is to start one in a way of its own.
read_config() { # COMMAND...
	config='' slow_listener='' overlay=overlay2 uses_containerd=''
	[ ! -f "$config_file" ] || [ ! -r "$config_file" ] || config=$(cat -- "$config_file")
	in_config data-root
	data_root=${data_root:-$value}
	in_config storage-driver
	named_driver=${DOCKER_DRIVER:-${named_driver:-$value}} # in dockerd's order
	said="$* $config "
	# As containerd calls it, which then stores the images.
	case $said in # only: fallback
	*'-snapshotter '* | *-snapshotter=true* | *'-snapshotter":true'* | *'-snapshotter": true'*) overlay=overlayfs ;;
	esac
	case $said in
	*--containerd[\ =]* | *'"containerd"'* | *embedded-containerd* | *cri-containerd*) uses_containerd=1 ;;
	esac
	# Without TLS dockerd waits 16 s, so that its warning may be read; and 1 s when it is told that TLS is not wanted.
	# The official entrypoint adds a listener unless its command names dockerd; with TLS if it has a directory for that.
	case $dockerd${DOCKER_TLS_CERTDIR:-},$said in
	*--tls* | *'"tls'*) ;;
	entrypoint,* | *tcp://*) slow_listener=--tls=false ;;
	esac
}

in_config() { # KEY: sets `value` to its string, and empties it when there is none
	value=${config#*"\"$1\""}
	case ${value%%\"*} in # between the key and the next string; without the key, what the text begins with
	*[!:[:space:]]*) value='' ;;
	*) value=${value#*\"} value=${value%%\"*} ;;
	esac
}
