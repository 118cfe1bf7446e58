# --- prepare: a disk in a file

prepare_loop() {
	directory=${directory:-$path}
	image=$directory/@LOOP_FILE@
	[ -d "$directory" ] || mkdir -p -- "$directory" || {
		unfit prepare "cannot make $directory" 'set KATA_DIND_DIR to a directory that can be written'
		return 0
	}
	lock_directory
	if [ -h "$image" ] || { [ -e "$image" ] && [ ! -f "$image" ]; }; then
		stop prepare "$image is not a plain file" 'move it away, or set KATA_DIND_DIR to another directory'
	fi
	if [ -e "$image" ]; then precious=1; else make_image; fi
	[ -z "$reason" ] || return 0
	find_content "$image"
	[ -n "$on_disk" ] || stop prepare "$image holds no file system; it was not touched" 'move it away'
	grow_image
	measure_file_system "$image"
	check_file_system "$image"
	mount_image
	[ -z "$reason" ] || return 0
	use_direct_io
	grow_file_system
}

# The descriptor stays open in the command, so the lock lasts as long as the container. Only containers of one kernel
# see it, for virtiofsd keeps the locks of different guests apart.
lock_directory() {
	command -v flock >/dev/null && [ -r "$directory" ] || return 0
	exec 9<"$directory"
	flock -n 9 ||
		stop prepare "$image is in use by another container" 'stop it, or set KATA_DIND_DIR to another directory'
}

# The disk gets its name only when it has a file system. So a file of that name may hold data, and one named .new can't.
make_image() {
	local free free_mib
	if free=$(stat -f -c '%a %S' "$directory"); then
		free_mib=$((${free% *} * ${free#* } / 1048576))
		if [ "$free_mib" -lt $least_mib ]; then
			unfit prepare "there are only $free_mib MiB left in $directory" 'free space there'
			return 0
		fi
	fi
	speak info prepare "making $image of $size with $format"
	rm -f -- "$image.new"
	if truncate -s "${size_mib}M" "$image.new" 2>/dev/null; then
		make_file_system "$image.new"
	else
		unfit prepare "cannot make $image of $size" "is there space in $directory?"
	fi
	if [ -z "$reason" ]; then
		mv -- "$image.new" "$image"
		made=1
	else
		rm -f -- "$image.new"
	fi
}

grow_image() { # sets `bytes` to its size
	bytes=$(stat -c %s "$image") || stop prepare "cannot tell how large $image is" 'is it still there?'
	if [ -n "${KATA_DIND_SIZE:-}" ] && [ "$bytes" -lt $((size_mib * 1048576)) ]; then
		speak info prepare "growing $image from $((bytes / 1048576))M to $size"
		if truncate -s "${size_mib}M" "$image"; then
			bytes=$((size_mib * 1048576))
		else
			speak warning prepare "$image can't grow to $size" "is there space in $directory?"
		fi
	fi
}

# mount itself makes the loop device, so that the kernel detaches it when its last user has ended, in whatever way.
mount_image() {
	local text mount_options
	make_loop_nodes
	choose_mount_options
	text=$(mount -o "loop,$mount_options" "$image" "$path" 2>&1) || {
		unfit prepare "cannot mount $image on $path: $text" \
			'make the container privileged, on a kernel with BLK_DEV_LOOP'
		return 0
	}
	mounted=1
	filesystem_of "$path"
	device=$mount_source
}

# Privileged Kata containers have no loop nodes: https://github.com/kata-containers/kata-containers/issues/8118
make_loop_nodes() {
	local number free
	[ -c /dev/loop-control ] || mknod -m 0600 /dev/loop-control c 10 237 2>/dev/null || return 0
	number=0
	while [ $number -lt 8 ]; do
		[ -b /dev/loop$number ] || mknod -m 0600 /dev/loop$number b 7 $number 2>/dev/null || return 0
		number=$((number + 1))
	done
	free=$(losetup -f 2>/dev/null) || return 0
	[ -b "$free" ] || mknod -m 0600 "$free" b 7 "${free#/dev/loop}" 2>/dev/null || :
}

# Buffered loop writes go through the share page by page: 9 MB/s against 159 MB/s with direct I/O.
use_direct_io() { # sets `direct_io` to whether it is used
	local dio called
	dio=1 called=''
	if ! losetup --direct-io=on "$device" 2>/dev/null; then
		# LOOP_SET_DIRECT_IO and 1, loop(4)
		system_call "$device" "$path/.kata-dind-probe" ioctl '\010\0114\0\0\01\0\0\0'
		[ "$called" = 0 ] || dio=0
	fi
	{ read -r dio <"/sys/block/${device#/dev/}/loop/dio"; } 2>/dev/null || :
	direct_io=true
	[ "$dio" != 1 ] || return 0
	direct_io=false
	case $called$(losetup --help 2>&1) in # the losetup of util-linux can, busybox' can't
	[0-9]* | *--direct-io*)
		speak warning prepare "the file system below $image refuses direct I/O, so writes are slow" \
			'set KATA_DIND_DIR to a directory of a file system with O_DIRECT'
		;;
	*)
		speak warning prepare "no program here can give the loop device of $image direct I/O, so writes are slow" \
			"install util-linux's losetup in the image (Alpine: apk add losetup)"
		;;
	esac
}
