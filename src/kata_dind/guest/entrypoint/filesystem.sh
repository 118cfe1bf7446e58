# --- prepare: the file system of a device or of a disk in a file

# FILE: sets `on_disk` to its file system, and empties it when there is none; sets `label`; stops for anything else.
find_content() {
	local found
	on_disk='' label=''
	# -p, for libblkid's cache may know another disk under the same name. busybox has no -p, and ignores it.
	found=$(blkid -p "$1" 2>/dev/null) || found=
	case $found in
	*TYPE=\"ext4\"*) on_disk=ext4 ;; # only: ext4
	*TYPE=\"xfs\"*) on_disk=xfs ;; # only: xfs
	'') ;;
	*)
		stop prepare "$1 holds something that is not a data root; it was not touched" \
			"look with: blkid $1@OTHER_FILESYSTEM@"
		;;
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
	case $format in
	xfs) set -- @XFS_OPTIONS@ ;; # only: xfs
	*) # only: ext4
		mib=${size_mib:-}
		[ ! -b "$disk" ] || mib=$((bytes / 1048576))
		journal_mib=$((mib / 4))
		[ $journal_mib -le @LARGEST_JOURNAL_MIB@ ] || journal_mib=@LARGEST_JOURNAL_MIB@
		extended=@EXT4_EXTENDED@
		set -- @EXT4_OPTIONS@
		[ -n "$exclusive" ] || {
			extended=$extended,mmp_update_interval=$guard_interval
			set -- "$@" -O mmp
		}
		set -- "$@" -J "size=$journal_mib" -E "$extended"
		;;
	esac
	text=$("mkfs.$format" "$@" "$disk" 2>&1) || unfit prepare "cannot format $disk with $format: $text" \
		'give it more space, of which xfs needs @XFS_LEAST_MIB@M'
}

# FILE of $bytes: sets `file_system_bytes`, and `check` when it needs one.
measure_file_system() {
	"read_${on_disk}_superblock" "$1"
	[ "$file_system_bytes" -le "$bytes" ] || stop prepare \
		"$disk is smaller than the file system on it; it was not touched" 'make it as large as it was'
}

mount_disk() { # DEVICE of $on_disk: mounts it on the data root; sets `mounted`, or `text` to what mount says
	local options
	options=noatime,discard
	# xfs reserves as much as a growing file holds once more, for which the host's disk may have no room.
	[ "$on_disk" != xfs ] || options=$options,allocsize=1m # only: xfs
	mount_with "$1"
	[ -n "$mounted" ] || "refused_$on_disk" "$1"
	[ -z "$mounted" ] || return 0
	case $text in *'already mounted'* | *[Bb]usy*) in_use "$disk" ;; esac
}

mount_with() { # DEVICE, with $options
	! text=$(LC_ALL=C mount -t "$on_disk" -o "$options" "$1" "$path" 2>&1) || mounted=1
}

in_use() { # DISK
	[ -z "$turn_file" ] || rm -f -- "$turn_file" # only: loop
	stop prepare "$1 is in use by another container" \
		'stop that one, which may be in another pod, or give each a disk of its own'
}

# The sizes are compared, for a start that grew the disk may have been killed before it came to this. A mounted file
# system is grown by the kernel, in transactions; a resize2fs that is killed at an unmounted one leaves damage that
# e2fsck does not repair by itself.
grow_file_system() { # $device of $bytes, mounted on the data root
	local grown
	[ $((bytes - file_system_bytes)) -gt 33554432 ] || return 0 # less may have no room for a block group
	info prepare "growing the file system on $path"
	grown=1
	"grow_$on_disk"
	[ -n "$grown" ] || warn prepare "the file system on $path can't grow" \
		'give the container CAP_SYS_RESOURCE, and the image resize2fs or xfs_growfs (Alpine: xfsprogs-extra)'
}
