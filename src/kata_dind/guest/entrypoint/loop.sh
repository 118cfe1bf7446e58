# --- prepare: a disk in a file

prepare_loop() {
	local text resolved share
	directory=${directory:-$path}
	[ -d "$directory" ] || mkdir -p -- "$directory" || {
		unfit prepare "cannot make $directory" 'set KATA_DIND_DIR to a directory that can be written'
		return 0
	}
	resolve "$directory"
	directory=$resolved image=$resolved/@LOOP_FILE@ disk=$resolved/@LOOP_FILE@
	filesystem_of "$directory"
	is_share "$filesystem"
	on_share=$share
	lock_directory
	sweep
	if [ -h "$image" ] || { [ -e "$image" ] && [ ! -f "$image" ]; }; then
		stop prepare "$image is not a plain file" 'move it away, or set KATA_DIND_DIR to another directory'
	fi
	if [ -e "$image" ]; then precious=1; else make_image; fi
	[ -z "$reason" ] || return 0
	find_content "$image"
	[ -n "$on_disk" ] || stop prepare "$image holds no file system; it was not touched" 'move it away'
	grow_image
	attach_image
	[ -z "$reason" ] || return 0
	use_direct_io
	measure_file_system "$device"
	if [ -z "$guard" ]; then
		# What gives a disk its protection, or checks it without, must not meet another start that does the same.
		take_turn
		measure_file_system "$device"
	fi
	check_file_system "$device" # only: ext4
	[ -n "$exclusive" ] || "protect_$on_disk" "$device"
	[ -n "$turn_file" ] || take_turn
	mount_disk "$device"
	[ -n "$mounted" ] || unfit prepare "cannot mount $device, the disk of $image, on $path: $text" \
		'make the container privileged; dmesg may say more'
	[ -z "$turn_file" ] || rm -f -- "$turn_file"
	exec 8<&-
	[ -n "$mounted" ] || return 0
	grow_file_system
}

# The descriptor stays open in the command, so the lock lasts as long as the container. The containers that share this
# mount of the directory see it, and are refused at once; protect.sh has what keeps all others away.
lock_directory() {
	[ -r "$directory" ] || return 0
	exec 9<"$directory"
	command -v flock >/dev/null || return 0
	flock -n 9 || in_use "$image"
}

# What a start that was killed has left: its unfinished disk, and a loop device that would not end by itself. When its
# mount has ended, the path of the device's file is what it was below that mount, so its content must tell that it is
# our disk. A start that lives makes its device end by itself at once, and tries again if it could not.
sweep() {
	local file name text kept
	for file in "$image".new*; do
		[ ! -e "$file" ] && [ ! -h "$file" ] || rm -rf -- "$file"
	done
	for file in /sys/block/loop*/loop; do
		{ read -r kept <"$file/autoclear" && read -r text <"$file/backing_file"; } 2>/dev/null || continue
		case $kept$text in 0*/@LOOP_FILE@) ;; *) continue ;; esac
		name=${file%/loop}
		name=/dev/${name##*/}
		cmp -s -n 2048 "$name" "$image" 2>/dev/null || continue
		sleep 1
		{ read -r kept <"$file/autoclear"; } 2>/dev/null || continue
		[ "$kept" = 1 ] || losetup -d "$name" 2>/dev/null || :
	done
}

# The disk gets its name only when it has a file system, and by a link, which fails if another container was faster.
# So a file of that name may hold data, and one named .new-ID can't.
make_image() {
	local free free_mib unfinished
	if free=$(stat -f -c '%a %S' "$directory"); then
		free_mib=$((${free% *} * ${free#* } / 1048576))
		if [ "$free_mib" -lt $least_mib ]; then
			unfit prepare "there are only $free_mib MiB left in $directory" 'free space there'
			return 0
		fi
	fi
	info prepare "making $image of $size with $format"
	read -r unfinished </proc/sys/kernel/random/uuid
	unfinished=$image.new-$unfinished
	if truncate -s "${size_mib}M" "$unfinished" 2>/dev/null; then
		make_file_system "$unfinished"
		# Another container that starts now takes it for the leftover of a killed start.
		[ -e "$unfinished" ] || in_use "$image"
	else
		unfit prepare "cannot make $image of $size" "make $directory writable, with space in it, or set KATA_DIND_DIR"
	fi
	if [ -z "$reason" ]; then
		if ln -- "$unfinished" "$image" 2>/dev/null; then
			made=1
		elif [ ! -e "$image" ]; then # not every share has hard links
			mv -n -- "$unfinished" "$image" || in_use "$image"
			[ -e "$unfinished" ] || made=1
		fi
		[ -n "$made" ] || precious=1 # it is another one's
	fi
	rm -f -- "$unfinished"
	[ -z "$made" ] || check=
}

grow_image() { # sets `bytes` to its size
	bytes=$(stat -c %s "$image") || stop prepare "cannot tell how large $image is" 'put it back'
	if [ -n "${KATA_DIND_SIZE:-}" ] && [ "$bytes" -lt $((size_mib * 1048576)) ]; then
		info prepare "growing $image from $((bytes / 1048576))M to $size"
		if truncate -s "${size_mib}M" "$image"; then
			bytes=$((size_mib * 1048576))
		else
			warn prepare "$image can't grow to $size" "free space in $directory"
		fi
	fi
}

# Direct I/O must be on before the mount, which looks at the disk as other guests see it, not at pages that ours has
# cached. A device that is detached while it is open goes when the last user closes it, in whatever way that one ends:
# the shell, by descriptor 8, and then the mount.
attach_image() { # sets `device` to a loop device of $image
	local text tries
	tries=0 text='there is no loop device'
	while [ $tries -lt 5 ]; do # another container may take a device at the same moment
		tries=$((tries + 1))
		find_free_loop
		if [ -n "$device" ] && text=$(losetup "$device" "$image" 2>&1); then
			exec 8<"$device"
			if text=$(losetup -d "$device" 2>&1); then return 0; fi
			exec 8<&-
		fi
	done
	device=${KATA_DIND_DEVICE:-}
	unfit prepare "cannot attach a loop device to $image: $text" \
		'make the container privileged, on a kernel with BLK_DEV_LOOP'
}

# Privileged Kata containers have no loop nodes: https://github.com/kata-containers/kata-containers/issues/8118
find_free_loop() { # sets `device`, makes its node, and empties it when there is none
	[ -c /dev/loop-control ] || mknod -m 0600 /dev/loop-control c 10 237 2>/dev/null || :
	device=$(losetup -f 2>/dev/null) || device=
	[ -z "$device" ] || [ -b "$device" ] || mknod -m 0600 "$device" b 7 "${device#/dev/loop}" 2>/dev/null || :
}

# Two kernels that mount a disk in the same millisecond would both find it unused, so starts take turns on a share: a
# file beside the disk, which only one of them can make, says whose turn it is. A start that was killed leaves its file,
# so a file that has not changed for 30 s does not count. Nor does one that came through our own mount of the directory,
# because the lock on the directory is ours.
take_turn() { # sets `turn_file`, and `turn` to what is in it
	local theirs seen left
	[ -n "$on_share" ] && [ -z "$exclusive" ] && [ -r "$directory" ] || return 0
	read -r turn </proc/sys/kernel/random/boot_id
	turn="$turn $mount_numbers" left=30 seen=
	until (set -C && printf '%s\n' "$turn" >"$image.mounting") 2>/dev/null; do
		theirs=
		{ read -r theirs <"$image.mounting"; } 2>/dev/null || :
		case "$theirs " in "$turn "*) break ;; esac
		[ -e "$image.mounting" ] && [ $left -gt 0 ] || break
		if [ "$theirs" = "$seen" ]; then left=$((left - 1)); else left=30 seen=$theirs; fi
		sleep 1
	done
	turn_file=/proc/self/fd/9/@LOOP_FILE@.mounting # the mount may hide the directory
}

# Changes the file while a check takes its time, so that others keep waiting.
keep_turn() { # in the background; TERM ends it and its sleep at once
	local count
	count=0
	while [ -d "/proc/$$" ]; do
		sleep 5 &
		trap 'kill $!; exit' TERM
		wait $!
		count=$((count + 1))
		printf '%s %s\n' "$turn" $count >"$turn_file" 2>/dev/null || :
	done
}

# Buffered loop writes go through the share page by page: 9 MB/s against 159 MB/s with direct I/O.
use_direct_io() { # sets `direct_io` to whether it is used
	local dio called
	dio=1 called=''
	if ! losetup --direct-io=on "$device" 2>/dev/null; then
		# LOOP_SET_DIRECT_IO and 1, loop(4)
		system_call "$device" "$path/.kata-dind-probe" ioctl AAhMAAABAAAA
		[ "$called" = 0 ] || dio=0
	fi
	{ read -r dio <"/sys/block/${device#/dev/}/loop/dio"; } 2>/dev/null || :
	direct_io=true
	[ "$dio" != 1 ] || return 0
	direct_io=false
	case $called$(losetup --help 2>&1) in # the losetup of util-linux can, busybox' can't
	[0-9]* | *--direct-io*)
		warn prepare "the file system below $image refuses direct I/O, so writes are slow" \
			'set KATA_DIND_DIR to a directory of a file system with O_DIRECT'
		;;
	*)
		warn prepare "no program here can give the loop device of $image direct I/O, so writes are slow" \
			"install util-linux's losetup in the image (Alpine: apk add losetup)"
		;;
	esac
}
