# --- prepare: make the data root; the kinds without a disk are here, block and loop follow

# Sets `reason` when the kind is not possible, and `precious` when no other may take its place, because a device was
# given or the disk may hold data.
prepare() {
	mounted='' made='' precious='' turn_file='' on_share='' guard=''
	case $run_filesystem in virtiofs* | fuse* | 9p*) on_share=1 ;; esac # as in a Kata guest
	if [ "$user" != 0 ]; then
		prepare_without_root
		return 0
	fi
	case $kind,$filesystem$is_mount_point in
	kept,*) prepare_kept ;;
	virtiofs,*) ;;
	memory,tmpfs1) prepare_memory ;;
	*)
		[ "$kind" != block ] || precious=1
		require_room_for_a_mount
		[ -z "$reason" ] || return 0
		"prepare_$kind"
		;;
	esac
	[ -z "$mounted" ] || filesystem_of "$path"
}

# A user that is not root can mount nothing for others to see, so only what is mounted already can be the data root.
prepare_without_root() {
	case $kind,$filesystem$is_mount_point in
	kept,* | virtiofs,*) ;;
	memory,tmpfs1)
		[ -z "${KATA_DIND_SIZE:-}" ] ||
			speak warning prepare "only root can resize the tmpfs on $path to $size, and the container's user is $user" \
				"give the volume that size (sizeLimit), or run the container as root (runAsUser: 0)"
		;;
	*)
		[ "$kind" != block ] || precious=1
		unfit prepare "only root can prepare the $kind kind, and the container's user is $user" \
			"mount a disk on $path that user $user may write to, and leave KATA_DIND_DATA_ROOT out"
		;;
	esac
}

prepare_kept() {
	# Kata ignores the sizeLimit of a memory-backed emptyDir:
	# https://github.com/kata-containers/kata-containers/issues/3765
	if [ "$filesystem$is_mount_point" = tmpfs1 ] && [ -n "${KATA_DIND_SIZE:-}" ]; then
		kind=memory
		prepare_memory
	fi
}

prepare_memory() {
	local text memory_mib memory_of
	if [ "$filesystem$is_mount_point" = tmpfs1 ]; then
		mount -o "remount,size=${size_mib}m" "$path" ||
			speak warning prepare "the tmpfs on $path cannot be resized to $size" 'does it hold more than that?'
	else
		text=$(mount -t tmpfs -o "size=${size_mib}m,mode=0710" kata-dind "$path" 2>&1) || {
			unfit prepare "cannot mount a tmpfs of $size on $path: $text" 'make the container privileged'
			return 0
		}
		mounted=1
	fi
	memory_mib_of_guest
	[ "$size_mib" -le $((memory_mib / 2)) ] ||
		speak warning prepare "a memory data root of $size may take more than half of $memory_of" \
			'give the sandbox more memory, or the data root another kind'
}

# A mount would hide whatever is in the directory.
require_room_for_a_mount() {
	local theirs entry
	theirs=
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ "$entry" != "$directory" ] || continue
		case ${entry#"$path"/} in
		@LOOP_FILE@ | @LOOP_FILE@.new* | @LOOP_FILE@.mounting | .kata-dind-probe | lost+found) ;;
		*) [ ! -e "$entry" ] || theirs=${entry#"$path"/} ;; # a pattern without a match stands for itself
		esac
	done
	[ -z "$theirs" ] ||
		unfit prepare "$path is not empty, and a mount would hide $theirs" \
			'move away what is in it, or use another data root'
}
