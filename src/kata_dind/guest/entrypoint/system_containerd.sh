# --- settle: the root of a system containerd, which dockerd uses instead of starting one

# Its root gets the place on the data root in which dockerd's own containerd keeps the same: so there is one disk with
# one size, and what one of them has stored is there for the other.
settle_containerd() {
	[ -n "$containerd_root" ] || return 0
	whose="containerd keeps its data in $containerd_root: "
	otherwise='; or, if nothing uses it: KATA_DIND_CONTAINERD=none'
	reason='' # only: choice
	mounted='' made='' # only: no-choice
	prepare_containerd_root
	[ -z "$reason" ] || [ "$fallback" != none ] || refuse # only: choice
	[ -z "$reason" ] || warn "$reason" "$reason_hint" # only: choice
}

prepare_containerd_root() { # sets `reason` if it can't be used
	data_root=$path unproven=$proof
	local path filesystem proof precious
	path=$containerd_root proof='' precious=''
	detect
	filesystem_of "$path"
	path=$resolved step=prepare
	if [ -n "$share" ] || [ "$filesystem" = overlay ]; then
		require_room
		[ -z "$reason" ] || return 0 # only: choice
		place=$data_root/containerd/daemon
		text=$({ mkdir -p -- "$place" && mount --bind "$place" "$path"; } 2>&1) ||
			unfit "cannot mount $place on $path: $text" "$privileged"
		[ -z "$reason" ] || return 0 # only: choice
		filesystem_of "$path"
	fi
	# On a full data root this is no more proven than that one.
	case $unproven in *'"failed"'*) return 0 ;; esac
	verify
	[ -z "$reason" ] || return 0 # only: choice
	info "overlay works on $filesystem, on which $path lies as well"
}
