# --- prepare: is a file system whole, and how large

measure_file_system() { # FILE of $bytes: sets `file_system_bytes`, and `check` when it needs one
	"read_${on_disk}_superblock" "$1"
	[ "$file_system_bytes" -le "$bytes" ] || stop prepare \
		"$disk is smaller than the file system on it; it was not touched" 'make it as large as it was'
}

# After a power cut ext4 is repaired and checked in full; xfs replays its log when it is mounted.
check_file_system() { # DEVICE, whose superblock was read
	if [ "$check" = 1 ] && [ "$on_disk" = ext4 ]; then
		# Without another user there is none to wait for, although e2fsck itself waits 11 s in any case.
		[ -z "$exclusive" ] || [ -z "$guard" ] || tune2fs -f -E clear_mmp "$1" >/dev/null 2>&1 || :
		speak info prepare "checking the file system on $disk in full"
		if [ -n "$turn_file" ]; then
			keep_turn &
			run_e2fsck "$1"
			kill $! || :
		else
			run_e2fsck "$1"
		fi
	fi
}

# od is one process, where dumpe2fs would need others to read what it prints. The offsets are those of ext4's disk
# layout in the kernel's documentation. The 32-bit words are little-endian; in another order the magic differs.
# FILE: sets `file_system_bytes`, `check` when it was not unmounted or has errors, and `guard` to the position of the
# block that protects it against a second mount, empty when there is none.
read_ext4_superblock() {
	local number word blocks block_bytes magic state incompatible
	file_system_bytes=$bytes guard=
	number=0
	for word in $(od -An -v -tu4 -j1024 -N368 "$1" 2>/dev/null); do
		case $number in
		1) blocks=$word ;;
		6) block_bytes=$((1024 << word)) ;;
		14) magic=$((word & 65535)) state=$((word >> 16)) ;;
		24) incompatible=$word ;;
		84) [ "$magic" != 61267 ] || file_system_bytes=$(((word << 32 | blocks) * block_bytes)) ;;
		90) [ $((incompatible & 256)) = 0 ] || guard=$((word * block_bytes)) ;; # below 16 TiB, as mke2fs puts it
		esac
		number=$((number + 1))
	done
	[ $number = 92 ] && [ "$magic" = 61267 ] && [ "$state" = 1 ] && [ $((incompatible & 4)) = 0 ] || check=1
}

# Source: xfs_dsb in fs/xfs/libxfs/xfs_format.h; big-endian: magic, bytes of a block, blocks.
read_xfs_superblock() { # FILE: sets `file_system_bytes`
	local block_bytes blocks number byte
	block_bytes=0 blocks=0 number=0
	for byte in $(od -An -v -tu1 -N16 "$1" 2>/dev/null); do
		case $number in
		[4-7]) block_bytes=$((block_bytes << 8 | byte)) ;;
		[89] | 1?) blocks=$((blocks << 8 | byte)) ;;
		esac
		number=$((number + 1))
	done
	file_system_bytes=$((blocks * block_bytes))
	[ $number = 16 ] || file_system_bytes=$bytes
}

run_e2fsck() { # DEVICE
	local code text
	if ! command -v e2fsck >/dev/null; then
		speak warning prepare "the file system on $disk was not checked" 'install e2fsck (e2fsprogs) in the image'
		return 0
	fi
	code=0
	text=$(LC_ALL=C e2fsck -fp "$1" 2>&1) || code=$?
	[ $code -ge 4 ] || return 0
	case $text in
	*'MMP: device currently active'* | *'is mounted'* | *'is in use'* | *'resource busy'*) in_use "$disk" ;;
	*'MMP: e2fsck being run'*)
		end_dead_check "$1"
		run_e2fsck "$1"
		;;
	*) stop prepare "the file system on $disk is damaged" "repair it with: e2fsck -f $disk" ;;
	esac
}
