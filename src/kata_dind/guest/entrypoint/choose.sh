# --- choose: the kinds to try, best first

choose() { # in `kinds`; in `reasons` why others are not tried
	reasons='' reasons_text=''
	if [ "$kind" != auto ]; then
		kinds=$kind
		return 0
	fi
	kinds=
	case $filesystem in
	virtiofs | fuse* | 9p | overlay) ;;
	*) kinds=kept ;;
	esac
	if [ -n "$device" ]; then
		# What somebody has mounted here was meant to be used; the container's own root was not.
		if [ -n "$is_mount_point" ]; then kinds="$kinds block"; else kinds="block $kinds"; fi
	fi
	choose_loop
	choose_memory
	case $filesystem in
	virtiofs | fuse* | 9p) kinds="$kinds virtiofs" ;;
	overlay) because kept 'overlayfs takes no overlay as its upper layer' ;;
	esac
	speak info choose "the kinds to try: ${kinds# }"
}

choose_loop() { # not where its disk would lie in memory
	[ -z "$directory" ] || filesystem_of "$directory"
	case $filesystem in
	tmpfs | ramfs) because loop "${directory:-$path} lies in memory" ;;
	*) kinds="$kinds loop" ;;
	esac
	[ -z "$directory" ] || filesystem_of "$path"
}

choose_memory() { # only where it was given a size that leaves the guest half of its memory
	local memory_mib
	memory_mib_of_guest
	if [ -z "${KATA_DIND_SIZE:-}" ]; then
		because memory 'it is not taken unasked without a KATA_DIND_SIZE'
	elif [ "$size_mib" -gt $((memory_mib / 2)) ]; then
		because memory "$size is more than half of the guest's memory"
	else
		kinds="$kinds memory"
	fi
}
