# --- settle: the root of a system containerd, which dockerd uses instead of starting one

# Its root gets the place on the data root in which dockerd's own containerd keeps the same: so there is one disk with
# one size, and what one of them has stored is there for the other.
settle_system_containerd() {
	[ -n "$containerd_root" ] || return 0
	reason=
	prepare_containerd_root
	[ -n "$reason" ] || return 0
	reason="containerd keeps its data in $containerd_root: $reason"
	reason_hint="$reason_hint; or, if nothing uses it: KATA_DIND_CONTAINERD=none"
	[ "$fallback" != none ] || refuse "$reason" "$reason_hint"
	warn verify "$reason" "$reason_hint"
}

prepare_containerd_root() { # sets `reason` if it can't be used
	local data_root unproven share
	data_root=$path unproven=$proof
	local path filesystem proof
	path=$containerd_root proof=''
	detect
	is_share "$filesystem"
	if [ -n "$share" ] || [ "$filesystem" = overlay ]; then
		require_room_for_a_mount
		[ -n "$reason" ] || mount_containerd_root
	fi
	# On a full data root this is no more proven than that one.
	case $unproven in *'"failed"'*) return 0 ;; esac
	[ -n "$reason" ] || verify
}

mount_containerd_root() {
	local text
	text=$({ mkdir -p -- "$data_root/containerd/daemon" && mount -o bind "$data_root/containerd/daemon" "$path"; } 2>&1) ||
		unfit prepare "cannot mount a directory of $data_root on $path: $text" 'make the container privileged'
	filesystem_of "$path"
}
