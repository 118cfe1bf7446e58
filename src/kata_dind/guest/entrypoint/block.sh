# --- prepare: a device

prepare_block() {
	local text claim our_claim claim_sector
	find_device
	disk=$device
	[ -b "$device" ] || stop prepare "$device is not a block device" 'set KATA_DIND_DEVICE to one'
	bytes=$(blockdev --getsize64 "$device") || stop prepare "cannot tell how large $device is" 'attach it again'
	[ "$bytes" -ge $((least_mib * 1048576)) ] ||
		stop prepare "$device has only $bytes bytes" "use a device of at least ${least_mib}M"
	find_content "$device"
	require_unmounted
	read_claim
	[ -z "$on_disk" ] || measure_file_system "$device"
	if [ -z "$on_disk" ]; then
		format_device
		[ -z "$reason" ] || return 0
		measure_file_system "$device"
	elif [ -n "$claim" ]; then
		erase_claim
	fi
	[ "$label" = @LABEL@ ] || require_data_root "$device"
	check_file_system "$device" # only: ext4
	[ -n "$exclusive" ] || "protect_$on_disk" "$device"
	mount_disk "$device"
	[ -n "$mounted" ] || stop prepare "cannot mount $device on $path: $text" 'dmesg may say why'
	lock_data_root
	grow_file_system
}

find_device() { # a serial number in `device` becomes the path of the disk that has it
	local file serial name numbers
	case $device in /*) return 0 ;; esac
	for file in /sys/block/*/serial /sys/block/*/device/vpd_pg80; do
		[ -r "$file" ] || continue
		serial=
		read -r serial <"$file" || :
		case $serial in
		"$device" | *[![:print:]]"$device")
			name=${file#/sys/block/}
			name=${name%%/*}
			read -r numbers <"/sys/block/$name/dev"
			device=/dev/$name
			[ -b "$device" ] || mknod -m 0600 "$device" b "${numbers%:*}" "${numbers#*:}" || :
			return 0
			;;
		esac
	done
	stop prepare "no disk has the serial number '$device'" 'set KATA_DIND_DEVICE to a path, or see /sys/block'
}

# The kernel would let two containers mount the device, and two dockerds would then write to one data root.
require_unmounted() {
	local numbers here name
	numbers=$(stat -L -c '%t %T' "$device") || return 0
	here=$PWD
	cd -P "/sys/dev/block/$((0x${numbers% *})):$((0x${numbers#* }))" 2>/dev/null || return 0
	name=${PWD##*/}
	cd -- "$here" || cd /
	[ ! -e "/sys/fs/ext4/$name" ] && [ ! -e "/sys/fs/xfs/$name" ] || in_use "$device"
}

# Of two containers that mount it at the same moment, one gets the lock on the root of what they then share.
lock_data_root() {
	command -v flock >/dev/null || return 0
	exec 9<"$path"
	flock -n 9 || {
		exec 9<&-
		umount "$path"
		in_use "$device"
	}
}

# Every file system, partition table and volume manager has its mark in the first or the last megabyte.
require_blank() { # DEVICE of $bytes
	local megabyte content
	for megabyte in 0 $((bytes / 1048576 - 1)); do
		content_of "$1" $megabyte
		[ "$content" = 0 ] || stop prepare "$1 is not blank, but holds no known file system; it was not touched" \
			"if nothing on it is needed, make it blank: dd if=/dev/zero of=$1 bs=1M"
	done
}

# FILE MEGABYTE: sets `content` to 0 when this megabyte and the next hold nothing but zeros, to something with an x for
# anything else, and empties it when they can't be read.
content_of() {
	content=$(dd "if=$1" bs=1048576 "skip=$2" count=2 2>/dev/null |
		tr -c '\0' x | tr '\0' 0 | tr -s 0x | head -c 2) || content=
}

# A half-made file system looks like a user's data. By a claim, the start after a kill recognizes it as ours. The claim
# lies where mkfs writes nothing: behind the tables of the last block group, and before the end, which mkfs wipes.
# A file system that is whole is kept in spite of it: somebody may have made that after the kill. mkfs keeps all others
# of this kernel from the device, but the claim of another boot may be that of a kernel at work.
format_device() { # $device of $bytes
	local theirs
	case $claim in
	"$our_claim") ;;
	'') require_blank "$device" ;;
	*)
		theirs=$claim
		[ -n "$exclusive" ] || {
			info prepare "waiting for 30 s: another container may use $device"
			sleep 30
		}
		read_claim
		[ "$claim" = "$theirs" ] || in_use "$device"
		;;
	esac
	printf '%s' "$our_claim" | write_sector
	info prepare "formatting $device with $format"
	make_file_system "$device"
	[ -z "$reason" ] || return 0 # by the claim, the next start formats it again
	erase_claim
	on_disk=$format label=@LABEL@ check=
}

read_claim() { # sets `claim` if the device has ours
	read -r our_claim </proc/sys/kernel/random/boot_id
	our_claim="kata-dind is formatting $our_claim"
	claim_sector=$(((bytes - 1048576) / 512))
	claim=$(dd "if=$device" bs=512 "skip=$claim_sector" count=1 2>/dev/null | tr -d '\0') || claim=
	case $claim in "${our_claim% *}"*) ;; *) claim= ;; esac
}

erase_claim() {
	dd if=/dev/zero bs=512 count=1 2>/dev/null | write_sector
}

write_sector() { # standard input, padded with zeros, becomes the claim's sector
	dd "of=$device" bs=512 "seek=$claim_sector" count=1 conv=sync,notrunc,fsync 2>/dev/null ||
		stop prepare "cannot write to $device" 'make it writable'
}

# A file system that we did not make may be used when it is empty, or when Docker has used it before.
require_data_root() { # DEVICE
	local text theirs entry mark
	text=$(mount -o ro,norecovery "$1" "$path" 2>&1) ||
		stop prepare "cannot mount $1 on $path: $text" 'dmesg may say why'
	theirs=
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ ! -e "$entry" ] || [ "$entry" = "$path/lost+found" ] || theirs=${entry##*/}
	done
	for mark in "$path/engine-id" "$path/overlay2/l" "$path/containerd/daemon" "$path"/image/*/repositories.json \
		"$path/buildkitd.lock" "$path/io.containerd.metadata.v1.bolt" "$path/dagger-engine.lock" \
		"$path/internal.earthly.version"; do
		[ ! -e "$mark" ] || theirs=
	done
	umount "$path"
	[ -z "$theirs" ] ||
		stop prepare "$1 holds $theirs but no Docker data root; it was not touched" 'use a blank device'
}
