# --- settle: the root of a system containerd, which dockerd uses instead of starting one

# Sets `containerd_root` when there is one: somebody names its address, or it runs, or the command is known to start it.
find_system_containerd() { # COMMAND...
	local toml_root socket
	containerd_root='' socket=/run/containerd/containerd.sock
	case ${KATA_DIND_CONTAINERD:-auto} in
	auto) ;;
	none) containerd_address=none ;;
	/*) [ "$user" != 0 ] || containerd_root=$KATA_DIND_CONTAINERD ;; # which only root can mount
	*) bad_input "KATA_DIND_CONTAINERD is '$KATA_DIND_CONTAINERD'" 'use auto, none or the path of its root' ;;
	esac
	[ "${KATA_DIND_CONTAINERD:-auto}$program$user" = autodockerd0 ] || return 0
	[ ! -e $socket ] || containerd_address=${containerd_address:-$socket}
	case "$containerd_address $* " in # the last word is what dev containers' feature docker-in-docker starts
	" "*/init\ * | " "*/systemd\ * | " "*/docker-init.sh\ *) ! command -v containerd >/dev/null || containerd_address=$socket ;;
	esac
	case ${containerd_address#unix://} in
	"$socket" | "/var$socket")
		read_toml /etc/containerd/config.toml
		containerd_root=${toml_root:-/var/lib/containerd}
		;;
	esac
}

# Its root gets the place on the data root in which dockerd's own containerd keeps the same: so there is one disk with one
# size, and what one of them has stored is there for the other.
settle_system_containerd() {
	local data_root unproven
	[ -n "$containerd_root" ] || return 0
	data_root=$path unproven=$proof
	local path filesystem proof reason reason_hint
	path=$containerd_root reason='' proof=''
	detect
	case $filesystem in
	virtiofs | fuse* | 9p | overlay)
		require_room_for_a_mount
		[ -n "$reason" ] || mount_system_containerd
		;;
	esac
	# On a full data root this is no more proven than that one.
	case $unproven in *'"failed"'*) return 0 ;; esac
	[ -n "$reason" ] || verify
	[ -n "$reason" ] || return 0
	reason="containerd keeps its data in $containerd_root: $reason"
	reason_hint="$reason_hint; or, if nothing uses it: KATA_DIND_CONTAINERD=none"
	[ "$fallback" != none ] || refuse "$reason" "$reason_hint"
	speak warning verify "$reason" "$reason_hint"
}

mount_system_containerd() {
	local text
	text=$({ mkdir -p -- "$data_root/containerd/daemon" && mount -o bind "$data_root/containerd/daemon" "$path"; } 2>&1) || {
		unfit prepare "cannot mount a directory of $data_root on $path: $text" 'make the container privileged'
		return 0
	}
	filesystem_of "$path"
}
