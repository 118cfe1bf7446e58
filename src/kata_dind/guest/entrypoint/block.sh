# --- prepare: a device

prepare_block() {
	find_device
	disk=$device
	case $run_type in virtiofs | fuse*) on_share=1 ;; *) on_share='' ;; esac # as in a Kata guest
	[ -b "$device" ] || stop "$device is not a block device" 'set KATA_DIND_DEVICE to one'
	look_at_device
	size_mib=$((bytes / 1048576))
	[ $size_mib -ge @LEAST_MIB@ ] || stop "$device has only $bytes bytes" 'use a device of at least @LEAST_MIB@M'
	find_content
	read_claim
	[ -z "$on_disk" ] || "measure_$on_disk"
	if [ -z "$on_disk" ]; then
		format_device
		[ -z "$reason" ] || return 0 # only: choice
		"measure_$on_disk"
	elif [ -n "$claim" ]; then
		erase_claim
	fi
	[ "$label" = @LABEL@ ] || require_data_root
	check_disk # only: ext4
	[ -n "$exclusive" ] || "protect_$on_disk"
	mount_disk
	[ -n "$mounted" ] || stop "cannot mount $device on $path: $text" 'dmesg may say why'
	# Of two containers that mount it at the same moment, one gets the lock on the root of what they then share.
	exec 9<"$path"
	flock -n 9 2>/dev/null || [ $? != 1 ] || {
		exec 9<&-
		umount "$path"
		in_use
	}
	grow_disk
}

find_device() { # a serial number in `device` becomes the path of the disk that has it
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
	stop "no disk has the serial number '$device'" 'set KATA_DIND_DEVICE to a path, or see /sys/block'
}

# Sets `bytes` to the size. The kernel would let two containers mount the device, and two dockerds would then write to
# one data root.
look_at_device() {
	numbers=$(stat -L -c '%t %T' "$device")
	cd -P "/sys/dev/block/$((0x${numbers% *})):$((0x${numbers#* }))"
	read -r bytes <size
	bytes=$((bytes * 512))
	[ ! -e "/sys/fs/ext4/${PWD##*/}" ] && [ ! -e "/sys/fs/xfs/${PWD##*/}" ] || in_use
	go_back
}

# Every file system, partition table and volume manager has its mark in the first or the last megabyte.
require_blank() { # $device of $size_mib
	for megabyte in 0 $((size_mib - 1)); do
		# 0 when this megabyte and the next hold nothing but zeros, with an x for anything else, empty on an error.
		content=$(dd "if=$device" bs=1048576 skip=$megabyte count=2 2>/dev/null |
			tr -c '\0' x | tr '\0' 0 | tr -s 0x | head -c 2) || content=''
		[ "$content" = 0 ] || stop "$device is not blank, but holds no known file system; it was not touched" \
			"if nothing on it is needed, make it blank: dd if=/dev/zero of=$device bs=1M"
	done
}

# A half-made file system looks like a user's data. By a claim, the start after a kill recognizes it as ours. The claim
# lies where mkfs writes nothing: behind the tables of the last block group, and before the end, which mkfs wipes.
# A file system that is whole is kept in spite of it: somebody may have made that after the kill. mkfs keeps all others
# of this kernel from the device, but the claim of another boot may be that of a kernel at work.
format_device() { # $device of $bytes
	case $claim in
	"$our_claim") ;;
	'') require_blank ;;
	*)
		theirs=$claim
		[ -n "$exclusive" ] || {
			info "waiting for 30 s: another container may use $device"
			sleep 30
		}
		read_claim
		[ "$claim" = "$theirs" ] || in_use
		;;
	esac
	printf '%s' "$our_claim" | write_sector
	# shellcheck disable=SC2154 # take sets it
	info "formatting $device with $format"
	make_file_system "$device"
	# only: choice
	[ -z "$reason" ] || return 0 # by the claim, the next start formats it again
	erase_claim
	on_disk=$format label=@LABEL@ check=
}

read_claim() { # sets `claim` if the device has ours
	# A kernel draws its boot_id when it is first asked, and keeps it; asked before a guest is saved, clones would share it.
	[ -n "$exclusive" ] || read -r boot </proc/sys/kernel/random/boot_id
	our_claim="kata-dind is formatting ${boot:-}"
	claim_sector=$(((bytes - 1048576) / 512))
	claim=$(dd "if=$device" bs=512 "skip=$claim_sector" count=1 2>/dev/null | tr -d '\0') || claim=
	case $claim in "${our_claim% *}"*) ;; *) claim= ;; esac
}

erase_claim() {
	dd if=/dev/zero bs=512 count=1 2>/dev/null | write_sector
}

write_sector() { # standard input, padded with zeros, becomes the claim's sector
	dd "of=$device" bs=512 "seek=$claim_sector" count=1 conv=sync,notrunc,fsync 2>/dev/null ||
		stop "cannot write to $device" 'make it writable'
}

# A file system that we did not make may be used when it is empty, or when Docker has used it before.
require_data_root() {
	text=$(mount -o ro,norecovery "$device" "$path" 2>&1) ||
		stop "cannot mount $device on $path: $text" 'dmesg may say why'
	theirs=''
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ ! -e "$entry" ] || [ "$entry" = "$path/lost+found" ] || theirs=${entry##*/}
	done
	for entry in engine-id overlay2/l containerd/daemon 'image/*/repositories.json' buildkitd.lock \
		io.containerd.metadata.v1.bolt dagger-engine.lock internal.earthly.version; do
		# shellcheck disable=SC2086 # a pattern
		set -- "$path"/$entry
		[ ! -e "$1" ] || theirs=''
	done
	umount "$path"
	[ -z "$theirs" ] ||
		stop "$device holds $theirs but no Docker data root; it was not touched" 'use a blank device'
}
