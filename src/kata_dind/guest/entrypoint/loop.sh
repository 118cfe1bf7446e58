# --- prepare: a disk in a file

prepare_loop() {
	[ -d "$directory" ] || mkdir -p -- "$directory" # only: no-auto
	# only: auto
	[ -d "$directory" ] || mkdir -p -- "$directory" || unfit "cannot make $directory" 'set KATA_DIND_DIR'
	[ -z "$reason" ] || return 0 # only: auto
	filesystem_of "$directory"
	directory=$resolved disk=$resolved/@LOOP_FILE@ on_share=$share
	# The descriptor stays open in the command, so the lock lasts as long as the container. The containers that share
	# this mount of the directory see it, and are refused at once; ext4.sh has what keeps all others away.
	exec 9<"$directory"
	flock -n 9 2>/dev/null || [ $? != 1 ] || in_use
	sweep
	[ ! -h "$disk" ] || foreign
	if [ -f "$disk" ]; then
		precious=1
	elif [ -e "$disk" ]; then
		foreign
	else
		make_image
		[ -z "$reason" ] || return 0 # only: choice
	fi
	find_content
	[ -n "$on_disk" ] || foreign # only: auto
	attach_image
	[ -z "$reason" ] || return 0 # only: choice
	see_direct_io
	grow_image
	"measure_$on_disk"
	if [ -z "$guard" ]; then
		# What gives a disk its protection, or checks it without, must not meet another start that does the same.
		take_turn
		"measure_$on_disk"
	fi
	check_disk # only: ext4
	[ -n "$exclusive" ] || "protect_$on_disk"
	take_turn
	mount_disk
	[ -z "$turn_file" ] || rm -f "$turn_file" || :
	exec 8<&-
	[ -n "$mounted" ] || unfit "cannot mount $disk on $path: $text" "$privileged, or see dmesg"
	[ -z "$reason" ] || return 0 # only: choice
	grow_disk
}

# What a start that was killed has left: its unfinished disk, and a loop device that would not end by itself. When its
# mount has ended, the path of the device's file is what it was below that mount, so its content must tell that it is
# our disk. A start that lives makes its device end by itself at once, and tries again if it could not.
sweep() {
	set -- "$disk".new*
	[ ! -e "$1" ] || rm -rf -- "$@" || :
	for device in /dev/loop[0-9]*; do
		block=/sys/block/${device#/dev/}/loop
		{
			read -r kept <"$block/autoclear" && read -r text <"$block/backing_file" &&
				[ "$kept${text##*/}" = 0@LOOP_FILE@ ] && [ -f "$disk" ] && cmp -s -n 2048 "$device" "$disk" &&
				sleep 1 && read -r kept <"$block/autoclear" && [ "$kept" = 0 ] && losetup -d "$device"
		} 2>/dev/null || :
	done
}

# The disk gets its name only when it has a file system, and by a link, which fails if another container was faster.
# So a file of that name may hold data, and one named .new-ID can't. Another start may sweep that one away at any moment,
# and busybox' `rm -f` fails when a file goes between its two calls.
make_image() {
	require_space # only: whole
	[ -z "$reason" ] || return 0 # only: whole
	read -r new </proc/sys/kernel/random/uuid
	new=$disk.new-$new made=$new
	truncate -s "${size_mib}M" "$new" 2>/dev/null ||
		unfit "cannot make $disk of $size" 'make its directory writable, or set KATA_DIND_DIR'
	[ -z "$reason" ] || return 0 # only: choice
	make_file_system "$new"
	[ -z "$reason" ] || return 0 # only: choice
	{
		# Not every share has hard links.
		ln -- "$new" "$disk" || { [ ! -e "$disk" ] && mv -n -- "$new" "$disk" && [ ! -e "$new" ]; }
	} 2>/dev/null || turn_file=$new in_use
	rm -f "$new" || :
	made=$disk check=''
}

require_space() {
	free=$(stat -f -c '%a %S' "$directory") || return 0
	[ $((${free% *} * ${free#* } >> 20)) -ge @LEAST_MIB@ ] ||
		unfit "there are less than @LEAST_MIB@ MiB left in $directory" 'free space there'
}

# Direct I/O must be on before the mount, which looks at the disk as other guests see it, not at pages that ours has
# cached. A device that is detached while it is open goes when the last user closes it, in whatever way that one ends:
# the shell, by descriptor 8, and then the mount.
attach_image() { # sets `device` to a loop device of $disk, and `called` as system_call does
	for _ in 1 2 3 4 5; do # another container may take a device at the same moment
		called=0
		if ! device=$(losetup -f --show --direct-io=on "$disk" 2>/dev/null); then
			called=''
			text=$(losetup -f 2>&1) || continue
			device=$text
			# Privileged Kata containers lack it: https://github.com/kata-containers/kata-containers/issues/8118
			[ -b "$device" ] || mknod -m 0600 "$device" b 7 "${device#/dev/loop}" 2>/dev/null || :
			text=$(losetup "$device" "$disk" 2>&1) || continue
		fi
		exec 8<"$device"
		block=/sys/block/${device#/dev/}
		if text=$(losetup -d "$device" 2>&1); then
			# LOOP_SET_DIRECT_IO and 1, loop(4)
			[ -n "$called" ] || system_call "$device" EAAA HQAA AAhMAAABAAAA
			return 0
		fi
		exec 8<&-
	done
	device=${KATA_DIND_DEVICE:-} # only: auto
	unfit "cannot attach a loop device to $disk: $text" "$privileged (kernel: BLK_DEV_LOOP)"
}

# Buffered loop writes go through the share page by page: 9 MB/s against 159 MB/s with direct I/O.
see_direct_io() { # sets `direct_io` to whether it is used
	direct_io=true
	read -r dio <"$block/loop/dio" && [ "$dio" = 0 ] || return 0
	direct_io=false
	why='no program here can switch it on' hint='install util-linux (apk add losetup)'
	[ -z "$called" ] || why='the share refuses it' hint='set KATA_DIND_DIR to a file system with O_DIRECT'
	warn "writes to $disk are slow without direct I/O: $why" "$hint"
}

grow_image() { # if more is asked for; sets `bytes` to the size of $device
	read -r bytes <"$block/size"
	bytes=$((bytes * 512))
	[ -n "${KATA_DIND_SIZE:-}" ] && [ $bytes -lt $((size_mib << 20)) ] || return 0
	{ truncate -s "${size_mib}M" "$disk" && losetup -c "$device" && bytes=$((size_mib << 20)); } || cannot_grow
}

# Two kernels that mount a disk in the same millisecond would both find it unused, so starts take turns on a share: a
# file beside the disk, which only one of them can make, says whose turn it is. A start that was killed leaves its file,
# so a file that has not changed for 30 s does not count. Nor does one that came through our own mount of the directory,
# because the lock on the directory is ours.
take_turn() { # sets `turn_file`, and `turn` to what is in it
	[ -n "$on_share" ] && [ -z "$exclusive$turn_file" ] || return 0
	read -r turn </proc/sys/kernel/random/boot_id
	turn="$turn $mount_numbers" left=30 seen=''
	until (set -C && echo "$turn" >"$disk.mounting") 2>/dev/null; do
		{ read -r theirs <"$disk.mounting"; } 2>/dev/null || theirs=''
		case "$theirs " in "$turn "*) break ;; esac
		[ -e "$disk.mounting" ] && [ $left -gt 0 ] || break
		[ "$theirs" = "$seen" ] || left=31 seen=$theirs
		left=$((left - 1))
		sleep 1
	done
	turn_file=/proc/self/fd/9/@LOOP_FILE@.mounting # the mount may hide the directory
}

# Changes the file while a check takes its time, so that others keep waiting.
keep_turn() { # in the background; TERM ends it and its sleep at once
	count=0
	while [ -d "/proc/$$" ]; do
		sleep 5 &
		trap 'kill $!; exit' TERM
		wait $!
		count=$((count + 1))
		echo "$turn $count" >"$turn_file" 2>/dev/null || :
	done
}
