# --- prepare: a tmpfs

prepare_kept() { # only: auto
	# Kata ignores the sizeLimit of a memory-backed emptyDir:
	# https://github.com/kata-containers/kata-containers/issues/3765
	if [ "$filesystem$is_mount_point" = tmpfs1 ] && [ -n "${KATA_DIND_SIZE:-}" ]; then
		kind=memory
		prepare_memory
	fi
}

prepare_memory() {
	if [ "$filesystem$is_mount_point" = tmpfs1 ]; then
		mount -o "remount,size=${size_mib}m" "$path" ||
			warn "the tmpfs on $path cannot be resized to $size" \
				'make KATA_DIND_SIZE larger than what it holds, or leave it out'
	else
		text=$(mount -t tmpfs -o "size=${size_mib}m,mode=0710" kata-dind "$path" 2>&1) || {
			unfit "cannot mount a tmpfs of $size on $path: $text" "$privileged"
			return 0
		}
		mounted=1 filesystem=tmpfs
	fi
	memory_mib_of_guest
	[ "$size_mib" -le $((memory_mib / 2)) ] ||
		warn "a memory data root of $size may take more than half of $memory_of" \
			'give the sandbox more memory, or the data root another kind'
}

# Sets `memory_mib` to what can be used, and `memory_of` to whose it is: the guest's, or what a cgroup allows, if less.
memory_mib_of_guest() {
	local directory
	memory_mib=0 memory_of="the guest's memory"
	while read -r key value _; do
		[ "$key" != MemTotal: ] || memory_mib=$((value / 1024))
	done </proc/meminfo
	while IFS=: read -r _ key below; do
		case ,$key, in
		,,) directory=/sys/fs/cgroup file=memory.max ;;
		*,memory,*) directory=/sys/fs/cgroup/memory file=memory.limit_in_bytes ;;
		*) continue ;;
		esac
		while :; do
			value=max
			[ ! -r "$directory$below/$file" ] || read -r value <"$directory$below/$file" || :
			case $value in
			'' | *[!0-9]*) ;;
			*)
				if [ $((value / 1048576)) -lt $memory_mib ]; then
					memory_mib=$((value / 1048576))
					memory_of="the $memory_mib MiB that the container's memory limit allows"
				fi
				;;
			esac
			[ -n "$below" ] || break
			below=${below%/*}
		done
	done </proc/self/cgroup
}
