# --- prepare: one disk, one user

# A lock is seen by the containers of one kernel alone, and not even by these when each sees the directory through a
# mount of its own, as the containers of a Kata pod do. What all see is the disk: a mounted ext4 with multiple-mount
# protection (MMP) counts up a block on it every $guard_interval seconds, and one that was not unmounted is neither
# mounted nor checked before that block has stood still for a while. Source: fs/ext4/mmp.c in the kernel's source.
guard_interval=2 # seconds; with ext4's own 5 the check after a power cut takes 64 s, with this 33 s
dead_check_seconds=30

in_use() { # DISK
	[ -z "$turn_file" ] || rm -f -- "$turn_file"
	stop prepare "$1 is in use by another container" 'stop that one, which may be in another pod, or give each a disk of its own'
}

# A check that was killed leaves its mark, which refuses every later check and mount. While e2fsck is at work it changes
# the block every few seconds; when two starts find the mark at once, the waits of their own e2fsck let one pass.
end_dead_check() { # DEVICE
	local before left
	speak warning prepare "a check of $disk was killed, or another container is at it; waiting for $dead_check_seconds s" \
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
# An older version made disks without protection; it takes a few milliseconds to give it to them. An xfs has none: one
# kernel refuses to mount it twice, since it knows it by its UUID, but two kernels don't know of each other.
protect() { # DEVICE of $on_disk, which is whole and not mounted
	[ -z "$exclusive" ] || return 0
	if [ "$on_disk" = xfs ]; then
		[ -z "$on_share" ] || speak warning prepare "nothing keeps another pod from mounting the xfs on $disk at the same time" \
			'use ext4, or set KATA_DIND_EXCLUSIVE=1 if no other pod has the disk'
	elif [ "$direct_io" = false ] && [ -n "$on_share" ]; then
		speak warning prepare "without direct I/O nothing keeps another pod from mounting $disk at the same time" \
			'give each pod a directory of its own, or set KATA_DIND_EXCLUSIVE=1'
	elif [ -z "$guard" ]; then
		tune2fs -O mmp -E "mmp_update_interval=$guard_interval" "$1" >/dev/null 2>&1 ||
			speak warning prepare "$disk can't be protected against a second user" \
				'install tune2fs (Alpine: e2fsprogs-extra) in the image, or set KATA_DIND_EXCLUSIVE=1'
	fi
}

mount_disk() { # DEVICE of $on_disk: mounts it on the data root; sets `mounted`, or `text` to what mount says
	local mount_options
	choose_mount_options
	if text=$(LC_ALL=C mount -t "$on_disk" -o "$mount_options" "$1" "$path" 2>&1); then
		mounted=1
		return 0
	fi
	if [ "$on_disk" = xfs ]; then
		case $(dmesg 2>/dev/null | tail -n 5) in *'duplicate UUID'*) in_use "$disk" ;; esac
	elif [ -n "$guard" ]; then
		read_guard "$1"
		case $guard_state in
		used) in_use "$disk" ;;
		checked)
			end_dead_check "$1"
			run_e2fsck "$1"
			if text=$(mount -t ext4 -o "$mount_options" "$1" "$path" 2>&1); then mounted=1; fi
			;;
		esac
	fi
	case $text in *'already mounted'* | *[Bb]usy*) in_use "$disk" ;; esac
}
