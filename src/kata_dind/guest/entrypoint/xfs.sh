# --- prepare: xfs

# Source: xfs_dsb in fs/xfs/libxfs/xfs_format.h; big-endian: magic, bytes of a block, blocks, and whether mkfs is in
# progress, which no kernel mounts. mkfs.xfs writes the superblock first, and last of all once more without that mark.
# Sets `used_bytes`, and empties `on_disk` if a mkfs of ours has not come to its end.
measure_xfs() {
	block_bytes=0 blocks=0 number=0 unfinished=''
	for byte in $(od -An -v -tu1 -N127 "$device" 2>/dev/null); do
		case $number in
		[4-7]) block_bytes=$((block_bytes << 8 | byte)) ;;
		[89] | 1[0-5]) blocks=$((blocks << 8 | byte)) ;;
		126) unfinished=$byte ;;
		esac
		number=$((number + 1))
	done
	used_bytes=$((blocks * block_bytes))
	[ $number = 127 ] || used_bytes=$bytes
	require_fit # only: whole
	[ "$unfinished" = 1 ] || return 0
	[ -n "${claim:-}" ] || stop "mkfs.xfs has not come to its end on $disk; it was not touched" \
		"wait until it has; if it was killed, make it blank: dd if=/dev/zero of=$disk bs=1M"
	on_disk=
}

format_xfs() { # FILE
	mkfs.xfs @XFS_OPTIONS@ "$1"
}

# One kernel refuses to mount an xfs twice, since it knows it by its UUID, but two kernels don't know of each other.
protect_xfs() {
	[ -z "$on_share" ] || warn "nothing keeps another pod from mounting the xfs on $disk at the same time" \
		'use ext4, or set KATA_DIND_EXCLUSIVE=1 if no other pod has the disk'
}

refused_xfs() {
	case $(dmesg 2>/dev/null | tail -n 5) in *'duplicate UUID'*) in_use ;; esac
}

# Without xfs_growfs, which Alpine has in xfsprogs-extra, and the official images have not.
grow_xfs() {
	if command -v xfs_growfs >/dev/null; then
		xfs_growfs "$path" >/dev/null
		return
	fi
	block_bytes=$(stat -f -c %S "$path") && inode_percent=$(od -An -tu1 -j127 -N1 "$device") || return # sb_imax_pct
	blocks=$((bytes / block_bytes))
	growth=''
	while [ ${#growth} -lt 40 ]; do # eight bytes
		growth="$growth\0$((blocks >> 6 & 3))$((blocks >> 3 & 7))$((blocks & 7))"
		blocks=$((blocks >> 8))
	done
	growth="$growth\0$((inode_percent >> 6))$((inode_percent >> 3 & 7))$((inode_percent & 7))\0\0\0\0\0\0\0"
	growth=$(printf %b "$growth" | base64) || return
	# XFS_IOC_FSGROWFSDATA, and the address of the growth in the program; ioctl_xfs_fsgrowfs(2)
	system_call "$path" EAAA HQAA AG5YEEDDAEAA "$growth"
	[ "$called" = 0 ]
}
