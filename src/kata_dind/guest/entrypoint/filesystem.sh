# --- prepare: the file system of a device or of a disk in a file

# Sets `on_disk` to the file system on $disk, and empties it when there is none; sets `label`, and `options` to those of
# mount; stops for anything else. xfs reserves as much as a growing file holds once more, for which the host's disk may
# have no room.
find_content() {
	on_disk='' # only: block
	label='' # only: block
	# -p, for libblkid's cache may know another disk under the same name. busybox has no -p, and ignores it.
	found=$(blkid -p "$disk" 2>/dev/null) || :
	case $found in
	*TYPE=\"ext4\"*) on_disk=ext4 ;; # only: ext4
	*TYPE=\"xfs\"*) on_disk=xfs options=,allocsize=1m ;; # only: xfs
	'') ;; # only: block
	*) foreign ;;
	esac
	case $found in *LABEL=\"@LABEL@\"*) label=@LABEL@ ;; esac # only: block
}

foreign() {
	stop "$disk is not the disk of a data root; it was not touched" "see: blkid $disk@OTHER_FILESYSTEM@"
}

# Another start may sweep the file away while this works; that it is there is then still cached, but it can't be opened.
make_file_system() { # FILE: a blank device, or the file of a loop disk, of $size_mib
	text=$("format_$format" "$1" 2>&1) || {
		true 2>/dev/null <"$1" || in_use
		unfit "cannot format $disk with $format: $text" \
			"install mkfs.$format in the image, or make it larger@LEAST_OF_XFS@"
	}
}

require_fit() { # which the kernel would refuse as well, in other words
	[ "$used_bytes" -le "$bytes" ] ||
		stop "$disk is smaller than the file system on it; it was not touched" 'make it as large as it was'
}

mount_disk() { # $device of $on_disk: mounts it on the data root; sets `mounted`, or `text` to what mount says
	text=$(LC_ALL=C mount -t "$on_disk" -o "noatime,discard@MORE_OPTIONS@" "$device" "$path" 2>&1) &&
		mounted=1 filesystem=$on_disk && return 0
	"refused_$on_disk"
	case $text in *'already mounted'* | *[Bb]usy*) in_use ;; esac
}

in_use() { # the disk
	[ -z "$turn_file" ] || rm -f "$turn_file" || : # only: loop
	stop "$disk is in use by another container" 'stop that one (of another pod?), or give each a disk'
}

# The sizes are compared, for a start that grew the disk may have been killed before it came to this. A mounted file
# system is grown by the kernel, in transactions; a resize2fs that is killed at an unmounted one leaves damage that
# e2fsck does not repair by itself.
grow_disk() { # $device of $bytes, mounted on the data root
	# Less may have no room for a block group.
	[ $((bytes - used_bytes)) -le 33554432 ] || "grow_$on_disk" || cannot_grow
}

cannot_grow() {
	warn "$disk can't grow" 'free space below it, and add CAP_SYS_RESOURCE and @GROWER@'
}
