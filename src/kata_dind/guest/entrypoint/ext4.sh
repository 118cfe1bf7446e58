# --- prepare: ext4, and what keeps it from a second user

# A lock is seen by the containers of one kernel alone, and not even by these when each sees the directory through a
# mount of its own, as the containers of a Kata pod do. What all see is the disk: a mounted ext4 with multiple-mount
# protection (MMP) counts up a block on it every 2 seconds, and one that was not unmounted is neither mounted nor checked
# before that block has stood still for a while: 33 s, where it would be 64 s with ext4's own 5 seconds. Source:
# fs/ext4/mmp.c in the kernel's source.

format_ext4() { # FILE
	journal_mib=$((size_mib / 4)) interval=,mmp_update_interval=2
	[ $journal_mib -le @LARGEST_JOURNAL_MIB@ ] || journal_mib=@LARGEST_JOURNAL_MIB@
	[ -z "$exclusive" ] || interval=''
	mkfs.ext4 @EXT4_OPTIONS@ ${interval:+-O mmp} -J size=$journal_mib -E @EXT4_EXTENDED@$interval "$1"
}

# After a power cut ext4 is repaired and checked in full; xfs replays its log when it is mounted.
check_disk() { # $device, whose superblock was read
	[ "$check$on_disk" = 1ext4 ] || return 0
	# Without another user there is none to wait for, although e2fsck itself waits 11 s in any case.
	[ -z "$exclusive" ] || tune2fs -f -E clear_mmp "$device" >/dev/null 2>&1 || :
	info "checking $disk in full"
	if [ -n "$turn_file" ]; then # only: loop
		keep_turn &
		keeper=$!
	fi
	run_e2fsck
	[ -z "$turn_file" ] || { kill "$keeper" && keeper=''; } || : # only: loop
}

# od is one process, where dumpe2fs would need others to read what it prints. The offsets are those of ext4's disk
# layout in the kernel's documentation, 4 x ($n - 1). The 32-bit words are little-endian; in another order the magic
# differs. Word 15 is the magic, and 1 for an ext4 that was unmounted and has no errors.
# Sets `used_bytes`, `check` when it was not unmounted or has errors, and `guard` to the position of the
# block that protects it against a second mount, empty when there is none.
measure_ext4() {
	# shellcheck disable=SC2046 # its words
	set -- $(od -An -v -tu4 -j1024 -N368 "$device" 2>/dev/null)
	used_bytes=$bytes guard=''
	if [ $# = 92 ] && [ $((${15} & 65535)) = 61267 ]; then
		used_bytes=$(((${85} << 32 | $2) << 10 + $7))
		[ $((${25} & 256)) = 0 ] || guard=$((${91} << 10 + $7)) # below 16 TiB, as mke2fs puts it
	fi
	require_fit # only: whole
	[ "${15:-}" = 126803 ] && [ $((${25} & 4)) = 0 ] || check=1
}

run_e2fsck() {
	code=0
	text=$(LC_ALL=C e2fsck -fp "$device" 2>&1) || code=$?
	case $code,$text in
	[0-3],*) ;;
	127,*) warn "$disk was not checked" 'install e2fsck in the image' ;;
	*'device currently active'* | *'is mounted'* | *'is in use'* | *'resource busy'*) in_use ;;
	*'e2fsck being run'*)
		end_dead_check
		run_e2fsck
		;;
	*) stop "$disk is damaged" "repair it with: e2fsck -f $disk" ;;
	esac
}

# A check that was killed leaves its mark, which refuses every later check and mount. While e2fsck is at work it changes
# the block every few seconds; when two starts find the mark at once, the waits of their own e2fsck let one pass.
end_dead_check() {
	warn "waiting for 30 s: a check of $disk was killed, or goes on elsewhere" 'stop the other container'
	read_guard
	before=$guard_words
	for _ in 1 2 3 4 5 6; do
		sleep 5
		read_guard
		[ -n "$before" ] && [ "$guard_words" = "$before" ] || in_use
	done
	tune2fs -f -E clear_mmp "$device" >/dev/null 2>&1 ||
		stop "cannot end a killed check of $disk" "run: tune2fs -f -E clear_mmp $disk"
}

# Sets `guard_words` to the words of the guard's block that change while somebody uses the disk.
read_guard() {
	blockdev --flushbufs "$device" 2>/dev/null || :
	guard_words=$(od -An -v -tu4 "-j$guard" -N16 "$device" 2>/dev/null) || :
}

# The guard's block must be read from the disk: without direct I/O a loop device shows what this guest has cached of it.
# An older version made disks without protection; it takes a few milliseconds to give it to them.
protect_ext4() { # $device, which is whole and not mounted
	missing=''
	case $direct_io$on_share in false?*) missing='direct I/O' ;; esac # only: loop
	[ -n "$missing$guard" ] || tune2fs -O mmp -E mmp_update_interval=2 "$device" >/dev/null 2>&1 ||
		missing='tune2fs (e2fsprogs-extra)'
	[ -z "$missing" ] || warn "without $missing nothing keeps another pod from mounting $disk" \
		'give each pod a disk, or set KATA_DIND_EXCLUSIVE=1'
}

refused_ext4() { # $device that mount refuses
	[ -n "$guard" ] || return 0
	read_guard
	case $guard_words in
	*' 4283256144 '*) ;; # nobody uses it
	*' 3796716880 '*) # somebody checks it
		end_dead_check
		run_e2fsck
		mount_disk
		;;
	*) in_use ;;
	esac
}

grow_ext4() {
	resize2fs "$device" >/dev/null
}
