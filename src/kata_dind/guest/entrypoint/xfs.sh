# --- prepare: xfs

# Source: xfs_dsb in fs/xfs/libxfs/xfs_format.h; big-endian: magic, bytes of a block, blocks, and whether mkfs is in
# progress, which no kernel mounts. mkfs.xfs writes the superblock first, and last of all once more without that mark.
# FILE: sets `file_system_bytes`, and empties `on_disk` if a mkfs of ours has not come to its end.
read_xfs_superblock() {
	local block_bytes blocks number byte unfinished
	block_bytes=0 blocks=0 number=0 unfinished=''
	for byte in $(od -An -v -tu1 -N127 "$1" 2>/dev/null); do
		case $number in
		[4-7]) block_bytes=$((block_bytes << 8 | byte)) ;;
		[89] | 1[0-5]) blocks=$((blocks << 8 | byte)) ;;
		126) unfinished=$byte ;;
		esac
		number=$((number + 1))
	done
	file_system_bytes=$((blocks * block_bytes))
	[ $number = 127 ] || file_system_bytes=$bytes
	[ "$unfinished" = 1 ] || return 0
	[ -n "${claim:-}" ] || stop prepare "mkfs.xfs has not come to its end on $disk; it was not touched" \
		"wait until it has; if it was killed, make it blank: dd if=/dev/zero of=$disk bs=1M"
	on_disk=
}

# One kernel refuses to mount an xfs twice, since it knows it by its UUID, but two kernels don't know of each other.
protect_xfs() {
	[ -z "$on_share" ] || warn prepare "nothing keeps another pod from mounting the xfs on $disk at the same time" \
		'use ext4, or set KATA_DIND_EXCLUSIVE=1 if no other pod has the disk'
}

refused_xfs() {
	case $(dmesg 2>/dev/null | tail -n 5) in *'duplicate UUID'*) in_use "$disk" ;; esac
}

# Without xfs_growfs, which Alpine has in xfsprogs-extra, and the official images have not.
grow_xfs() { # empties `grown` when it failed
	local called blocks block_bytes inode_percent growth
	if command -v xfs_growfs >/dev/null; then
		xfs_growfs "$path" >/dev/null || grown=''
		return 0
	fi
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
