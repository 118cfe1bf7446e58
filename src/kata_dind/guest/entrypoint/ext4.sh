# --- prepare: ext4, and what keeps it from a second user

# A lock is seen by the containers of one kernel alone, and not even by these when each sees the directory through a
# mount of its own, as the containers of a Kata pod do. What all see is the disk: a mounted ext4 with multiple-mount
# protection (MMP) counts up a block on it every $guard_interval seconds, and one that was not unmounted is neither
# mounted nor checked before that block has stood still for a while. Source: fs/ext4/mmp.c in the kernel's source.
guard_interval=2 # seconds; with ext4's own 5 the check after a power cut takes 64 s, with this 33 s
dead_check_seconds=30

# After a power cut ext4 is repaired and checked in full; xfs replays its log when it is mounted.
check_file_system() { # DEVICE, whose superblock was read
	[ "$check$on_disk" = 1ext4 ] || return 0
	# Without another user there is none to wait for, although e2fsck itself waits 11 s in any case.
	[ -z "$exclusive" ] || [ -z "$guard" ] || tune2fs -f -E clear_mmp "$1" >/dev/null 2>&1 || :
	info prepare "checking the file system on $disk in full"
	if [ -n "$turn_file" ]; then # only: loop
		keep_turn &
		keeper=$!
	fi
	run_e2fsck "$1"
	[ -z "$turn_file" ] || { kill "$keeper" && keeper=''; } || : # only: loop
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

run_e2fsck() { # DEVICE
	local code text
	if ! command -v e2fsck >/dev/null; then
		warn prepare "the file system on $disk was not checked" 'install e2fsck (e2fsprogs) in the image'
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

# A check that was killed leaves its mark, which refuses every later check and mount. While e2fsck is at work it changes
# the block every few seconds; when two starts find the mark at once, the waits of their own e2fsck let one pass.
end_dead_check() { # DEVICE
	local before left
	warn prepare "a check of $disk was killed, or another container is at it; waiting for $dead_check_seconds s" \
		'stop the other container if there is one'
	[ -n "$guard" ] || in_use "$disk"
	read_guard "$1"
	before=$guard_words left=$dead_check_seconds
	[ -n "$before" ] || in_use "$disk"
	while [ $left -gt 0 ]; do
		sleep 2
		left=$((left - 2))
		read_guard "$1"
		[ "$guard_words" = "$before" ] || in_use "$disk"
	done
	tune2fs -f -E clear_mmp "$1" >/dev/null 2>&1 || stop prepare \
		"a check of $disk was killed, and its mark can't be taken away" "run: tune2fs -f -E clear_mmp $disk"
}

# DEVICE: sets `guard_words` to the words of the guard's block that change while somebody uses the disk, and
# `guard_state` to unused, checked or used.
read_guard() {
	local word number
	blockdev --flushbufs "$1" 2>/dev/null || :
	guard_words='' guard_state=used number=0
	for word in $(od -An -v -tu4 "-j$guard" -N16 "$1" 2>/dev/null); do
		guard_words="$guard_words $word" number=$((number + 1))
		case $number,$word in
		2,4283256144) guard_state=unused ;;
		2,3796716880) guard_state=checked ;;
		esac
	done
}

# The guard's block must be read from the disk: without direct I/O a loop device shows what this guest has cached of it.
# An older version made disks without protection; it takes a few milliseconds to give it to them.
protect_ext4() { # DEVICE, which is whole and not mounted
	if [ "$direct_io" = false ] && [ -n "$on_share" ]; then
		warn prepare "without direct I/O nothing keeps another pod from mounting $disk at the same time" \
			'give each pod a directory of its own, or set KATA_DIND_EXCLUSIVE=1'
	elif [ -z "$guard" ]; then
		tune2fs -O mmp -E "mmp_update_interval=$guard_interval" "$1" >/dev/null 2>&1 ||
			warn prepare "$disk can't be protected against a second user" \
				'install tune2fs (Alpine: e2fsprogs-extra) in the image, or set KATA_DIND_EXCLUSIVE=1'
	fi
}

refused_ext4() { # DEVICE that mount refuses
	[ -n "$guard" ] || return 0
	read_guard "$1"
	case $guard_state in
	used) in_use "$disk" ;;
	checked)
		end_dead_check "$1"
		run_e2fsck "$1"
		mount_with "$1"
		;;
	esac
}

grow_ext4() {
	resize2fs "$device" >/dev/null || grown=''
}
