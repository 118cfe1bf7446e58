# --- parse: whether dockerd uses a system containerd instead of starting one

# Sets `containerd_root` when there is one: somebody names its address, or it runs, or the command is known to start it.
find_containerd() {
	containerd_root='' socket=/run/containerd/containerd.sock
	containerd=${KATA_DIND_CONTAINERD:-auto} # only: containerd
	take CONTAINERD containerd --containerd auto none # only: no-containerd
	case $containerd in # only: containerd
	auto | none) ;;
	/*) containerd_root=$containerd ;;
	*) bad_input "KATA_DIND_CONTAINERD is '$containerd'" 'use auto, none or the path of its root' ;;
	esac
	[ "$user" = 0 ] || containerd_root='' uses_containerd=1 said='' # only: rootless
	[ "$containerd" = auto ] || uses_containerd=1 said=''
	case $uses_containerd$said in
	*$socket*) containerd_root=auto ;;
	1*) ;;
	*) [ -z "$starts_system" ] && [ ! -e $socket ] || containerd_root=auto uses_containerd=1 ;;
	esac
	# only: no-containerd
	[ -z "$containerd_root" ] || bad_input 'this file does not serve a system containerd' \
		'use: kata-dind entrypoint --containerd, or set KATA_DIND_CONTAINERD=none if nothing uses it'
	if [ "$containerd_root" = auto ]; then # only: containerd
		# What it makes of its configuration file, and of all that this imports; one process, and no reading of our own.
		containerd_root=$(containerd config dump 2>/dev/null | sed -n 's/^root = .\(.*\).$/\1/p')
		containerd_root=${containerd_root:-/var/lib/containerd}
	fi
}
