# --- prepare: the file system of a device or of a disk in a file

# FILE: sets `on_disk` to its file system, and empties it when there is none; sets `label`; stops for anything else.
find_content() {
	local found
	on_disk='' label=''
	# -p, for libblkid's cache may know another disk under the same name. busybox has no -p, and ignores it.
	found=$(blkid -p "$1" 2>/dev/null) || found=
	case $found in
	*TYPE=\"ext4\"*) on_disk=ext4 ;;
	*TYPE=\"xfs\"*) on_disk=xfs ;;
	'') ;;
	*) stop prepare "$1 holds something that is not a data root; it was not touched" "look with: blkid $1" ;;
	esac
	case $found in *LABEL=\"@LABEL@\"*) label=@LABEL@ ;; esac
}

make_file_system() { # FILE: a blank device, or the file of a loop disk
	local disk text mib journal_mib extended
	disk=$1
	command -v "mkfs.$format" >/dev/null || {
		unfit prepare "mkfs.$format is not in the image" 'install e2fsprogs (mkfs.ext4) or xfsprogs (mkfs.xfs) there'
		return 0
	}
	if [ "$format" = xfs ]; then
		text=$(mkfs.xfs @XFS_OPTIONS@ "$disk" 2>&1)
	else
		mib=$size_mib
		[ ! -b "$disk" ] || mib=$((bytes / 1048576))
		journal_mib=$((mib / 4))
		[ $journal_mib -le @LARGEST_JOURNAL_MIB@ ] || journal_mib=@LARGEST_JOURNAL_MIB@
		extended=@EXT4_EXTENDED@
		set --
		[ -n "$exclusive" ] || {
			extended=$extended,mmp_update_interval=$guard_interval
			set -- -O mmp
		}
		text=$(mkfs.ext4 @EXT4_OPTIONS@ "$@" -J "size=$journal_mib" -E "$extended" "$disk" 2>&1)
	fi || unfit prepare "cannot format $disk with $format: $text" 'is it large enough? xfs needs @XFS_LEAST_MIB@M'
}

choose_mount_options() { # sets `mount_options`
	mount_options=noatime,discard
	# xfs reserves as much as a growing file holds once more, for which the host's disk may have no room.
	[ "$on_disk" != xfs ] || mount_options=$mount_options,allocsize=1m
}

# The sizes are compared, for a start that grew the disk may have been killed before it came to this. A mounted file
# system is grown by the kernel, in transactions; a resize2fs that is killed at an unmounted one leaves damage that
# e2fsck does not repair by itself.
grow_file_system() { # $device of $bytes, mounted on the data root
	local grown
	[ $((bytes - file_system_bytes)) -gt 33554432 ] || return 0 # less may have no room for a block group
	speak info prepare "growing the file system on $path"
	grown=1
	if [ "$on_disk" != xfs ]; then
		resize2fs "$device" >/dev/null || grown=''
	elif command -v xfs_growfs >/dev/null; then
		xfs_growfs "$path" >/dev/null || grown=''
	else
		grow_xfs
	fi
	[ -n "$grown" ] || speak warning prepare "the file system on $path can't grow" \
		'give the container CAP_SYS_RESOURCE, and the image resize2fs or xfs_growfs (Alpine: xfsprogs-extra)'
}

# Without xfs_growfs, which Alpine has in xfsprogs-extra, and the official images have not.
grow_xfs() { # empties `grown` when it failed
	local called blocks block_bytes inode_percent growth
	if ! block_bytes=$(stat -f -c %S "$path") || ! inode_percent=$(od -An -tu1 -j127 -N1 "$device"); then # sb_imax_pct
		grown=''
		return 0
	fi
	blocks=$((bytes / block_bytes))
	growth=''
	while [ ${#growth} -lt 40 ]; do # eight bytes
		growth="$growth\0$((blocks >> 6 & 3))$((blocks >> 3 & 7))$((blocks & 7))"
		blocks=$((blocks >> 8))
	done
	growth="$growth\0$((inode_percent >> 6))$((inode_percent >> 3 & 7))$((inode_percent & 7))\0\0\0\0\0\0\0"
	# XFS_IOC_FSGROWFSDATA, and the address of the growth in the program; ioctl_xfs_fsgrowfs(2)
	system_call "$path" "$path/.kata-dind-probe" ioctl AG5YEEDYAEAA "$growth"
	[ "$called" = 0 ] || grown=''
}
