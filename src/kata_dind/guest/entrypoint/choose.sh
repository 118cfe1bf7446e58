# --- choose: the kinds to try, best first

choose() { # sets `kinds`, and `reasons` to why the others are not tried
	step=choose kinds=''
	[ -n "$share" ] || [ "$filesystem" = overlay ] || kinds=kept
	if [ -n "$device" ]; then
		# A file system that is mounted here was meant to be used; the container's own root was not.
		if [ -n "$is_mount_point" ]; then kinds="$kinds block"; else kinds="block $kinds"; fi
	fi
	# A disk of an earlier start may hold data, which another kind would hide.
	[ "$user" != 0 ] || [ -n "$user_namespace" ] || [ ! -f "$directory/@LOOP_FILE@" ] || kinds="loop $kinds"
	choose_loop
	choose_memory
	[ -z "$share" ] || kinds="$kinds virtiofs"
	[ "$filesystem" != overlay ] || because kept 'overlayfs does not accept an overlay as its upper layer'
	info "the kinds to try: ${kinds# }"
}

choose_loop() { # unless its disk would lie in memory
	if [ -n "$user_namespace" ]; then
		[ ! -e "$directory/@LOOP_FILE@" ] || stop \
			"$directory/@LOOP_FILE@ may hold data, but root of a user namespace cannot mount it" \
			'set hostUsers: true in the pod, or use another directory'
		because loop 'root of a user namespace cannot mount a disk'
		return 0
	fi
	case $kinds in loop*) return 0 ;; esac
	[ "$directory" = "$path" ] || filesystem_of "$directory"
	case $filesystem in
	tmpfs | ramfs) because loop "$directory lies in memory" ;;
	*) kinds="$kinds loop" ;;
	esac
	[ "$directory" = "$path" ] || filesystem_of "$path"
}

choose_memory() { # only with a size that was given, and that leaves the guest half of its memory
	memory_mib_of_guest
	if [ -z "${KATA_DIND_SIZE:-}" ]; then
		because memory 'it is chosen only when KATA_DIND_SIZE is set'
	elif [ "$size_mib" -gt $((memory_mib / 2)) ]; then
		because memory "$size is more than half of $memory_of"
	else
		kinds="$kinds memory"
	fi
}

because() { # KIND REASON: adds them to `reasons`, which is JSON, and to `reasons_text`, a sentence
	escape "$2"
	reasons="${reasons:+$reasons,}\"$1\":\"$escaped\""
	reasons_text="${reasons_text:-no kind of data root works here:}${reasons_text:+;} $1: $2"
}
