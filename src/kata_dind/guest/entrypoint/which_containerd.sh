# --- parse: whether dockerd uses a system containerd instead of starting one

# Sets `containerd_root` when there is one: somebody names its address, or it runs, or the command is known to start it.
find_system_containerd() { # COMMAND...
	local toml_root socket word before
	containerd_root='' socket=/run/containerd/containerd.sock before=--
	case ${KATA_DIND_CONTAINERD:-auto} in
	auto) ;;
	none) containerd_address=none ;;
	/*) [ "$user" != 0 ] || containerd_root=$KATA_DIND_CONTAINERD ;; # which only root can mount
	*) bad_input "KATA_DIND_CONTAINERD is '$KATA_DIND_CONTAINERD'" 'use auto, none or the path of its root' ;;
	esac
	[ "${KATA_DIND_CONTAINERD:-auto}$program$user" = autodockerd0 ] || return 0
	[ ! -e $socket ] || containerd_address=${containerd_address:-$socket}
	for word in "$@"; do
		case $containerd_address$before,$word in # the last one is what dev containers' feature docker-in-docker starts
		--,*/init | --,*/systemd | --,*/docker-init.sh)
			[ "$before" != -- ] || ! command -v containerd >/dev/null || containerd_address=$socket
			;;
		esac
		before=$word
	done
	case ${containerd_address#unix://} in
	"$socket" | "/var$socket")
		read_toml /etc/containerd/config.toml # only: containerd
		containerd_root=${toml_root:-/var/lib/containerd}
		;;
	esac
}
