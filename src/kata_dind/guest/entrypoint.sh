#!/bin/sh
# kata-dind guest entrypoint: gives dockerd a data root that is proven to work, then runs the image's own command.
#
#   entrypoint.sh [--] COMMAND [ARGS...]
#
#   KATA_DIND_DATA_ROOT   auto (default), memory, loop, block or virtiofs
#   KATA_DIND_PATH        the data root; else what the command or daemon.json says, else Docker's default
#   KATA_DIND_SIZE        size of a memory or loop data root: 512M, 20G; a larger one than last time grows the disk
#   KATA_DIND_DIR         where the loop kind keeps its disk file; else in the data root, below the mount
#   KATA_DIND_DEVICE      the block kind's device: its path, or its serial number
#   KATA_DIND_FILESYSTEM  ext4 (default) or xfs: what a blank disk is formatted with
#   KATA_DIND_FALLBACK    none (default), vfs or fuse-overlayfs: what to do when no kind works
#   KATA_DIND_CHECK       1: check the file system in full before it is used
#   KATA_DIND_LOG         info (default), or error: what to say on standard error
#
# Exit status: 64 for bad input, 78 when no working data root can be had, else the command's own.
# What it found and did is in /run/kata-dind/status.json; without root, in $XDG_RUNTIME_DIR or /tmp.
#
# Runs in dash and busybox ash, with what the official dind images hold. A process costs an emulated guest 20 ms, so
# functions leave their answers in variables, which each one names; a good data root is proven with ten processes.
set -eu

least_mib=64 # smaller, and a file system has no room for a journal

# --- speaking: JSON lines on standard error

escape() { # TEXT: as the inside of a JSON string, in `escaped`
	escaped=$1
	case $1 in
	*[\\\"[:cntrl:]]*) escaped=$(printf '%s' "$1" | tr '[:cntrl:]' ' ' | sed 's/[\\"]/\\&/g') ;;
	esac
}

speak() { # LEVEL STEP MESSAGE [HINT]
	if [ "$1" = info ] && [ "${KATA_DIND_LOG:-info}" = error ]; then
		return 0
	fi
	escape "${4:-}"
	hint_text=$escaped
	escape "$3"
	printf '{"kata_dind":"%s","step":"%s","message":"%s","hint":"%s"}\n' "$1" "$2" "$escaped" "$hint_text" >&2
}

stop() { # STATUS STEP MESSAGE [HINT]
	speak error "$2" "$3" "${4:-}"
	exit "$1"
}

unfit() { # STEP MESSAGE HINT: this kind can't be had, though another may; whoever sees a `reason` returns
	failed_step=$1 reason=$2 reason_hint=$3
}

# --- parse: what was asked

size_in_mib() { # SIZE: a number and K, M, G or T, in `mib`; empty for anything else
	mib=
	number=${1%[KMGT]}
	case $number in '' | 0* | *[!0-9]* | ??????????*) return 0 ;; esac
	case $1 in
	*K) mib=$(((number + 1023) / 1024)) ;;
	*M) mib=$number ;;
	*G) mib=$((number * 1024)) ;;
	*T) mib=$((number * 1024 * 1024)) ;;
	esac
}

parse() {
	find_user
	read_command "$@"
	read_config
	kind=${KATA_DIND_DATA_ROOT:-auto}
	case $kind in
	auto | memory | loop | block | virtiofs) ;;
	*) stop 64 parse "KATA_DIND_DATA_ROOT is '$kind'" 'use auto, memory, loop, block or virtiofs' ;;
	esac
	fallback=${KATA_DIND_FALLBACK:-none}
	case $fallback in
	none | vfs | fuse-overlayfs) ;;
	*) stop 64 parse "KATA_DIND_FALLBACK is '$fallback'" 'use none, vfs or fuse-overlayfs' ;;
	esac
	format=${KATA_DIND_FILESYSTEM:-ext4}
	case $format in
	ext4 | xfs) ;;
	*) stop 64 parse "KATA_DIND_FILESYSTEM is '$format'" 'use ext4 or xfs' ;;
	esac
	dockerds=${command_data_root:-$config_data_root}
	path=${KATA_DIND_PATH:-${dockerds:-$default_data_root}}
	[ -z "$dockerds" ] || [ "${dockerds%/}" = "${path%/}" ] ||
		stop 64 parse "KATA_DIND_PATH is '$path', but dockerd is told '$dockerds'" 'leave KATA_DIND_PATH out'
	case $path in
	*[[:cntrl:]]*) stop 64 parse "the data root '$path' has a control character in it" 'use another path' ;;
	/*) ;;
	*) stop 64 parse "the data root '$path' is not an absolute path" 'set KATA_DIND_PATH=/var/lib/docker' ;;
	esac
	size=${KATA_DIND_SIZE:-20G}
	size_in_mib "$size"
	[ -n "$mib" ] || stop 64 parse "KATA_DIND_SIZE is '$size'" 'use a number and K, M, G or T, like 20G'
	size_mib=$mib
	[ "$size_mib" -le 16777216 ] || stop 64 parse "KATA_DIND_SIZE is '$size', which is too large" 'use at most 16T'
	[ "$size_mib" -ge $least_mib ] ||
		stop 64 parse "KATA_DIND_SIZE is '$size', which is too small" "use at least ${least_mib}M"
	device=${KATA_DIND_DEVICE:-}
	[ "$kind" != block ] || [ -n "$device" ] ||
		stop 64 parse 'the block kind needs KATA_DIND_DEVICE' 'set it to the device, like /dev/vdb'
	directory=${KATA_DIND_DIR:-}
	case $directory in
	'' | /*) directory=${directory%/} ;;
	*) stop 64 parse "KATA_DIND_DIR is '$directory', which is not an absolute path" 'use an absolute path' ;;
	esac
	check=${KATA_DIND_CHECK:-}
	case $check in
	'' | 0 | 1) ;;
	*) stop 64 parse "KATA_DIND_CHECK is '$check'" 'use 1, or leave it out' ;;
	esac
	case ${KATA_DIND_LOG:-info} in
	info | error) ;;
	*) stop 64 parse "KATA_DIND_LOG is '$KATA_DIND_LOG'" 'use info or error' ;;
	esac
}

# The user's number in `user`; what dockerd takes for this user in `default_data_root` and `config_file`; `status_dir`.
find_user() {
	user=0 default_data_root=/var/lib/docker config_file=/etc/docker/daemon.json run=/run
	while read -r key _ value _; do
		[ "$key" != Uid: ] || user=$value
	done </proc/self/status
	if [ "$user" != 0 ]; then
		default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/docker
		config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/docker/daemon.json
		run=${XDG_RUNTIME_DIR:-/tmp}
	fi
	status_dir=${KATA_DIND_STATUS_DIR:-$run/kata-dind}
}

# What --data-root or -g says, in `command_data_root`; --config-file, in `config_file`; and in `containerd_store` that
# images are containerd's, whose names for storage are others.
read_command() { # COMMAND...
	command_data_root='' containerd_store='' behind=''
	while [ $# -gt 0 ]; do
		case $behind$1 in
		dockerd | */dockerd | dockerd-entrypoint.sh | */dockerd-entrypoint.sh) behind=. ;;
		.-g) [ $# -lt 2 ] || command_data_root=$2 ;;
		.-g=*) command_data_root=${1#*=} ;;
		.-g*) command_data_root=${1#-g} ;;
		esac
		case $1 in
		--data-root=*) command_data_root=${1#*=} ;;
		--data-root) [ $# -lt 2 ] || command_data_root=$2 ;;
		--config-file=*) config_file=${1#*=} ;;
		--config-file) [ $# -lt 2 ] || config_file=$2 ;;
		containerd-snapshotter | containerd-snapshotter=true) containerd_store=1 ;;
		--feature=containerd-snapshotter | --feature=containerd-snapshotter=true) containerd_store=1 ;;
		esac
		shift
	done
}

read_config() { # daemon.json in `config`; of it, `config_data_root`, `config_driver` and `containerd_store`
	config=
	if [ -f "$config_file" ] && [ -r "$config_file" ]; then
		while read -r line || [ -n "$line" ]; do
			config="$config$line "
		done <"$config_file"
	fi
	case $config in *'"containerd-snapshotter":true'* | *'"containerd-snapshotter": true'*) containerd_store=1 ;; esac
	string_in_config data-root
	config_data_root=$value
	string_in_config storage-driver
	config_driver=$value
}

string_in_config() { # KEY: its string, in `value`; empty when there is none
	value=
	case $config in *"\"$1\""*) ;; *) return 0 ;; esac
	rest=${config#*"\"$1\""}
	for mark in : '"'; do
		rest=${rest#"${rest%%[! 	]*}"}
		case $rest in "$mark"*) rest=${rest#?} ;; *) return 0 ;; esac
	done
	value=${rest%%\"*}
	case $value in
	*\\*) stop 64 parse "cannot read $1 in $config_file, for it has a backslash in it" 'set KATA_DIND_PATH' ;;
	esac
}

# --- detect: what lies under the data root

detect() {
	[ -d "$path" ] || mkdir -p -- "$path" ||
		stop 78 detect "cannot make $path" 'give the container a writable root or a volume there'
	# mountinfo knows no symbolic links; and an automount, as virtiofsd announces them, comes with the first access.
	here=$PWD
	! cd -P -- "$path" 2>/dev/null || path=$PWD
	cd -- "$here" 2>/dev/null || cd /
	filesystem_of "$path"
	speak info detect "$path lies on $filesystem"
}

# The mount with the longest mount point that is a prefix wins, and the last of equals. Only the type after the dash
# tells the truth: under Kata the source is `none` or `kataShared`.
filesystem_of() { # PATH: its type in `filesystem`, the mount's place in `mount_point`, its device in `mount_source`
	wanted=$1 filesystem=unknown mount_point='' mount_source=''
	case $wanted in # as mountinfo writes them, proc_pid_mountinfo(5)
	*[\\\ ]*) wanted=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g') ;;
	esac
	while read -r _ _ _ _ point rest; do
		case $wanted/ in
		"${point%/}"/*)
			if [ ${#point} -ge ${#mount_point} ]; then
				mount_point=$point
				rest=${rest#*" - "}
				filesystem=${rest%% *}
				rest=${rest#* }
				mount_source=${rest%% *}
			fi
			;;
		esac
	done </proc/self/mountinfo
	if [ "$mount_point" = "$wanted" ]; then
		is_mount_point=1
	else
		is_mount_point=
	fi
}

# --- choose: the kinds to try, best first

choose() { # in `kinds`; in `reasons` why others are not tried
	reasons='' reasons_text=''
	if [ "$kind" != auto ]; then
		kinds=$kind
		return 0
	fi
	kinds=
	case $filesystem in
	virtiofs | fuse* | 9p | overlay) ;;
	*) kinds=kept ;;
	esac
	if [ -n "$device" ]; then
		# What somebody has mounted here was meant to be used; the container's own root was not.
		if [ -n "$is_mount_point" ]; then kinds="$kinds block"; else kinds="block $kinds"; fi
	fi
	choose_loop
	choose_memory
	case $filesystem in
	virtiofs | fuse* | 9p) kinds="$kinds virtiofs" ;;
	overlay) because kept 'overlayfs takes no overlay as its upper layer' ;;
	esac
	speak info choose "the kinds to try: ${kinds# }"
}

choose_loop() { # not where its disk would lie in memory
	[ -z "$directory" ] || filesystem_of "$directory"
	case $filesystem in
	tmpfs | ramfs) because loop "${directory:-$path} lies in memory" ;;
	*) kinds="$kinds loop" ;;
	esac
	[ -z "$directory" ] || filesystem_of "$path"
}

choose_memory() { # only where it was given a size that leaves the guest half of its memory
	memory_mib_of_guest
	if [ -z "${KATA_DIND_SIZE:-}" ]; then
		because memory 'it is not taken unasked without a KATA_DIND_SIZE'
	elif [ "$size_mib" -gt $((memory_mib / 2)) ]; then
		because memory "$size is more than half of the guest's memory"
	else
		kinds="$kinds memory"
	fi
}

because() { # KIND REASON: collects them as JSON in `reasons`, as a sentence in `reasons_text`
	escape "$2"
	reasons="${reasons:+$reasons,}\"$1\":\"$escaped\""
	reasons_text="${reasons_text:-no kind of data root works here}${reasons_text:+;} $1: $2"
}

memory_mib_of_guest() { # in `memory_mib`
	memory_mib=0
	while read -r key value _; do
		[ "$key" != MemTotal: ] || memory_mib=$((value / 1024))
	done </proc/meminfo
}

# --- prepare: make it

# Why that is not possible, in `reason`; that no other kind may take its place, in `precious`: a device was given, or
# what is on the disk would be missed.
prepare() {
	mounted='' made='' precious=''
	case $kind,$filesystem$is_mount_point in
	kept,*) prepare_kept ;;
	virtiofs,*) ;;
	memory,tmpfs1) prepare_memory ;;
	*)
		[ "$kind" != block ] || precious=1
		require_room_for_a_mount
		[ -z "$reason" ] || return 0
		"prepare_$kind"
		;;
	esac
	[ -z "$mounted" ] || filesystem_of "$path"
}

prepare_kept() {
	# Kata ignores the sizeLimit of a memory-backed emptyDir:
	# https://github.com/kata-containers/kata-containers/issues/3765
	if [ "$filesystem$is_mount_point" = tmpfs1 ] && [ -n "${KATA_DIND_SIZE:-}" ]; then
		kind=memory
		prepare_memory
	fi
}

prepare_memory() {
	if [ "$filesystem$is_mount_point" = tmpfs1 ]; then
		mount -o "remount,size=${size_mib}m" "$path" ||
			speak warning prepare "the tmpfs on $path does not take the size $size" 'is more than that in it?'
	else
		text=$(mount -t tmpfs -o "size=${size_mib}m,mode=0710" kata-dind "$path" 2>&1) || {
			unfit prepare "cannot mount a tmpfs of $size on $path: $text" 'make the container privileged'
			return 0
		}
		mounted=1
	fi
	memory_mib_of_guest
	[ "$size_mib" -le $((memory_mib / 2)) ] ||
		speak warning prepare "a memory data root of $size may take more than half of the guest's memory" \
			'give the sandbox more memory, or the data root another kind'
}

prepare_block() {
	find_device
	[ -b "$device" ] || stop 78 prepare "$device is not a block device" 'set KATA_DIND_DEVICE to one'
	bytes=$(blockdev --getsize64 "$device") || stop 78 prepare "cannot tell how large $device is" 'is it there still?'
	[ "$bytes" -ge $((least_mib * 1048576)) ] ||
		stop 78 prepare "$device has only $bytes bytes" "use a device of at least ${least_mib}M"
	find_content "$device"
	require_unmounted
	read_claim
	if [ -z "$on_disk" ]; then
		format_device
		[ -z "$reason" ] || return 0
	elif [ -n "$claim" ]; then
		erase_claim
	fi
	measure_file_system "$device"
	[ "$label" = kata-dind ] || require_data_root "$device"
	check_file_system "$device"
	choose_mount_options
	text=$(mount -o "$mount_options" "$device" "$path" 2>&1) ||
		stop 78 prepare "cannot mount $device on $path: $text" 'dmesg tells more'
	mounted=1
	grow_file_system
}

# The kernel would let two containers mount it, and two dockerds would then write one data root.
require_unmounted() {
	numbers=$(stat -L -c '%t %T' "$device") || return 0
	here=$PWD
	cd -P "/sys/dev/block/$((0x${numbers% *})):$((0x${numbers#* }))" 2>/dev/null || return 0
	name=${PWD##*/}
	cd -- "$here" || cd /
	[ ! -e "/sys/fs/ext4/$name" ] && [ ! -e "/sys/fs/xfs/$name" ] ||
		stop 78 prepare "$device is in use by another container" 'stop it, or use another disk'
}

# A half-made file system looks like somebody's data. So that the start after a kill knows it for ours, a claim stands
# where mkfs writes nothing: behind the tables of the last block group, before what it wipes at the end.
format_device() { # $device of $bytes
	if [ -z "$claim" ]; then
		require_blank "$device"
		printf '%s' "$our_claim" | write_sector
	fi
	speak info prepare "formatting $device with $format"
	make_file_system "$device"
	erase_claim
	on_disk=$format label=kata-dind
}

read_claim() { # what stands there, if it is ours, in `claim`
	our_claim='kata-dind is formatting'
	claim_sector=$(((bytes - 1048576) / 512))
	claim=$(dd "if=$device" bs=512 "skip=$claim_sector" count=1 2>/dev/null | tr -d '\0') || claim=
	[ "$claim" = "$our_claim" ] || claim=
}

erase_claim() {
	dd if=/dev/zero bs=512 count=1 2>/dev/null | write_sector
}

write_sector() { # what it reads, filled up with zeros
	dd "of=$device" bs=512 "seek=$claim_sector" count=1 conv=sync,notrunc,fsync 2>/dev/null ||
		stop 78 prepare "cannot write to $device" 'is it read-only?'
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
	stop 78 prepare "no disk has the serial number '$device'" 'set KATA_DIND_DEVICE to a path, or see /sys/block'
}

prepare_loop() {
	directory=${directory:-$path}
	image=$directory/kata-dind.img
	[ -d "$directory" ] || mkdir -p -- "$directory" || {
		unfit prepare "cannot make $directory" 'set KATA_DIND_DIR to a directory that can be written'
		return 0
	}
	lock_directory
	if [ -h "$image" ] || { [ -e "$image" ] && [ ! -f "$image" ]; }; then
		stop 78 prepare "$image is not a plain file" 'move it away, or set KATA_DIND_DIR to another directory'
	fi
	if [ -e "$image" ]; then precious=1; else make_image; fi
	[ -z "$reason" ] || return 0
	find_content "$image"
	[ -n "$on_disk" ] || stop 78 prepare "$image holds no file system; it was not touched" 'move it away'
	grow_image
	measure_file_system "$image"
	check_file_system "$image"
	mount_image
	[ -z "$reason" ] || return 0
	use_direct_io
	grow_file_system
}

# Named only when it has a file system, so whatever has the name is somebody's, and what has not is nobody's.
make_image() {
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

# The descriptor stays open in the command, so the lock lasts as long as the container. It is known to one kernel:
# virtiofsd keeps the locks of each guest apart.
lock_directory() {
	command -v flock >/dev/null && [ -r "$directory" ] || return 0
	exec 9<"$directory"
	flock -n 9 ||
		stop 78 prepare "$image is in use by another container" 'stop it, or set KATA_DIND_DIR to another directory'
}

choose_mount_options() { # for `on_disk`
	mount_options=noatime,discard
	# Beyond the end of a growing file xfs sets aside as much again, which a host that runs full does not have.
	[ "$on_disk" != xfs ] || mount_options=$mount_options,allocsize=1m
}

# By mount itself, which lets the kernel detach the loop device with the last user, however that ends.
mount_image() {
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
use_direct_io() { # in `direct_io`
	dio=1
	losetup --direct-io=on "$device" 2>/dev/null || dio=0
	{ read -r dio <"/sys/block/${device#/dev/}/loop/dio"; } 2>/dev/null || :
	direct_io=true
	[ "$dio" = 1 ] || direct_io=false
	[ $direct_io = true ] ||
		speak warning prepare "the loop device of $image has no direct I/O, so writes are slow" \
			"put util-linux's losetup into the image (Alpine: apk add losetup), on a share that takes O_DIRECT"
}

grow_image() { # leaves its size in `bytes`
	bytes=$(stat -c %s "$image") || stop 78 prepare "cannot tell how large $image is" 'is it there still?'
	if [ -n "${KATA_DIND_SIZE:-}" ] && [ "$bytes" -lt $((size_mib * 1048576)) ]; then
		speak info prepare "growing $image from $((bytes / 1048576))M to $size"
		if truncate -s "${size_mib}M" "$image"; then
			bytes=$((size_mib * 1048576))
		else
			speak warning prepare "$image can't grow to $size" "is there space in $directory?"
		fi
	fi
}

# Also after a start that was killed before it did that, so we compare. The kernel does it in transactions, where a
# resize2fs that is killed before the mount leaves a file system that e2fsck does not mend by itself.
grow_file_system() { # $device of $bytes, mounted on the data root
	[ $((bytes - file_system_bytes)) -gt 33554432 ] || return 0 # less may be no room for a block group
	speak info prepare "growing the file system on $path"
	case $on_disk in
	xfs) xfs_growfs "$path" >/dev/null ;;
	*) resize2fs "$device" >/dev/null ;;
	esac || speak warning prepare "the file system on $path can't grow" \
		'give the container CAP_SYS_RESOURCE, and the image resize2fs or xfs_growfs'
}

count_bytes() { # the size of the data root's file system, in `size_bytes`
	size_bytes=0
	blocks=$(stat -f -c '%b %S' "$path" 2>/dev/null) || return 0
	size_bytes=$((${blocks% *} * ${blocks#* }))
}

# Whatever lies in the directory would be out of sight below a mount.
require_room_for_a_mount() {
	theirs=
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ "$entry" != "$directory" ] || continue
		case ${entry#"$path"/} in
		kata-dind.img | kata-dind.img.new | .kata-dind-probe | lost+found) ;;
		*) [ ! -e "$entry" ] || theirs=${entry#"$path"/} ;; # a pattern without a match stands for itself
		esac
	done
	[ -z "$theirs" ] ||
		unfit prepare "$path is not empty, and a mount would hide $theirs" \
			'move away what is in it, or use another data root'
}

find_content() { # FILE: its file system in `on_disk`, empty for a blank one, and in `label`; stops for anything else
	on_disk='' label=''
	# Probed anew: libblkid's cache tells what another disk held under the same name. busybox knows no -p, and ignores it.
	found=$(blkid -p "$1" 2>/dev/null) || found=
	case $found in
	*TYPE=\"ext4\"*) on_disk=ext4 ;;
	*TYPE=\"xfs\"*) on_disk=xfs ;;
	'') ;;
	*) stop 78 prepare "$1 holds something that is not a data root; it was not touched" "look with: blkid $1" ;;
	esac
	case $found in *LABEL=\"kata-dind\"*) label=kata-dind ;; esac
}

# Where every file system, partition table and volume manager has its mark: in the first or the last megabyte.
require_blank() { # DEVICE of $bytes
	for megabyte in 0 $((bytes / 1048576 - 1)); do
		content_of "$1" $megabyte
		[ "$content" = 0 ] || stop 78 prepare "$1 is not blank, and holds no file system we know; it was not touched" \
			"if nobody misses it, wipe it with: wipefs -a $1"
	done
}

# In `content`: 0 for nothing but zeros, an x in it for anything else, empty when it can't be read.
content_of() { # FILE MEGABYTE, and the one after it
	content=$(dd "if=$1" bs=1048576 "skip=$2" count=2 2>/dev/null |
		tr -c '\0' x | tr '\0' 0 | tr -s 0x | head -c 2) || content=
}

# Many small files: an inode per 16 KiB, where Kata's block-plain has one per 160. 4 KiB blocks suit direct I/O.
make_file_system() { # FILE: a blank device, or the file of a loop disk
	command -v "mkfs.$format" >/dev/null || {
		unfit prepare "mkfs.$format is not in the image" 'install e2fsprogs (mkfs.ext4) or xfsprogs (mkfs.xfs) there'
		return 0
	}
	if [ "$format" = xfs ]; then
		text=$(mkfs.xfs -q -f -K -L kata-dind "$1" 2>&1)
	else
		mib=$size_mib
		[ ! -b "$1" ] || mib=$((bytes / 1048576))
		journal_mib=$((mib / 4)) # a small disk has no room for more
		[ $journal_mib -le 64 ] || journal_mib=64
		text=$(mkfs.ext4 -q -F -b 4096 -m 0 -i 16384 -L kata-dind -J "size=$journal_mib" \
			-E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$1" 2>&1)
	fi || unfit prepare "cannot format $1 with $format: $text" 'is it large enough? xfs needs 300M'
}

measure_file_system() { # FILE of $bytes: in `file_system_bytes`; whether to `check` it
	"read_${on_disk}_superblock" "$1"
	[ "$file_system_bytes" -le "$bytes" ] || stop 78 prepare \
		"$1 is smaller than the file system on it; it was not touched" 'give it back its size'
}

# Mends what was in flight at a power cut, and looks at all of it then. XFS replays its log when it is mounted.
check_file_system() { # FILE
	if [ "$check" = 1 ] && [ "$on_disk" = ext4 ]; then
		speak info prepare "checking the file system on $1, which saw a power cut"
		run_e2fsck "$1"
	fi
}

# One program where dumpe2fs would be followed by others. Offsets are those of ext4's disk layout in the kernel's
# documentation; the 32-bit words are in the order of little-endian machines, and another order is found by the magic.
read_ext4_superblock() { # FILE: sets `file_system_bytes`, and `check` when it was not unmounted or has errors
	file_system_bytes=$bytes
	number=0
	for word in $(od -An -v -tu4 -j1024 -N340 "$1" 2>/dev/null); do
		case $number in
		1) blocks=$word ;;
		6) block_bytes=$((1024 << word)) ;;
		14) magic=$((word & 65535)) state=$((word >> 16)) ;;
		24) incompatible=$word ;;
		84) [ "$magic" != 61267 ] || file_system_bytes=$(((word << 32 | blocks) * block_bytes)) ;;
		esac
		number=$((number + 1))
	done
	[ $number = 85 ] && [ "$magic" = 61267 ] && [ "$state" = 1 ] && [ $((incompatible & 4)) = 0 ] || check=1
}

# Source: xfs_dsb in fs/xfs/libxfs/xfs_format.h; big-endian: magic, bytes of a block, blocks.
read_xfs_superblock() { # FILE: sets `file_system_bytes`
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

run_e2fsck() { # FILE
	if ! command -v e2fsck >/dev/null; then
		speak warning prepare "the file system on $1 was not checked" 'install e2fsck (e2fsprogs) in the image'
		return 0
	fi
	code=0
	text=$(LC_ALL=C e2fsck -fp "$1" 2>&1) || code=$?
	[ $code -ge 4 ] || return 0
	case $text in
	*'is mounted'* | *'is in use'* | *'resource busy'*)
		stop 78 prepare "$1 is in use by another container" 'stop it, or use another disk'
		;;
	*) stop 78 prepare "the file system on $1 is damaged" "repair it with: e2fsck -f $1" ;;
	esac
}

# A file system that we did not make may be used when it is empty, or when Docker has used it before.
require_data_root() { # DEVICE
	text=$(mount -o ro,norecovery "$1" "$path" 2>&1) ||
		stop 78 prepare "cannot mount $1 on $path: $text" 'dmesg tells more'
	theirs=
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ ! -e "$entry" ] || [ "$entry" = "$path/lost+found" ] || theirs=${entry##*/}
	done
	for mark in "$path/engine-id" "$path/overlay2/l" "$path/containerd/daemon" "$path"/image/*/repositories.json; do
		[ ! -e "$mark" ] || theirs=
	done
	umount "$path"
	[ -z "$theirs" ] ||
		stop 78 prepare "$1 holds $theirs and no Docker data root; it was not touched" 'use a blank device'
}

# --- verify: a real overlay mount, and what dockerd will do with it

verify() { # each step's outcome in `proof`; what failed, in `reason`
	proof='' step='' probe=$path/.kata-dind-probe
	if [ "$user" != 0 ]; then
		verify_without_root
		return 0
	fi
	prove
	if [ -z "$step" ]; then
		done='mount, copy-up, whiteout, d_type, rename, opaque directory'
		[ "$capability" != passed ] || done="$done, file capability"
		speak info verify "overlay works on $filesystem: $done"
		return 0
	fi
	hint='set KATA_DIND_DATA_ROOT to loop, block or memory'
	[ "$step" != write ] || hint='is it writable, with space and inodes left?'
	evidence=$(dmesg 2>/dev/null | grep -i overlay | tail -n 3) || evidence=
	unfit verify "overlay does not work on $filesystem at $path: $step failed${evidence:+; dmesg: $evidence}" "$hint"
	begin '' failed
}

# dockerd in a user namespace of its own mounts overlays as well, but we are not in it yet.
verify_without_root() {
	step=mount
	begin '' untested
	case $filesystem in
	ext4 | xfs | btrfs | tmpfs)
		speak warning verify "the data root is not proven, for only root can mount an overlay on $path" \
			'run the container as root (runAsUser: 0)'
		;;
	*)
		unfit verify "only root can prove a data root, and $filesystem rarely takes an overlay" \
			'run the container as root (runAsUser: 0), or mount a disk there'
		;;
	esac
}

begin() { # STEP [OUTCOME]: the step before has come to its outcome
	[ -z "$step" ] || proof="${proof:+$proof,}\"$step\":\"${2:-passed}\""
	step=$1
}

prove() { # leaves the step that failed in `step`
	begin write
	[ ! -e "$probe" ] || rm -rf -- "$probe" || return 0
	set -- "$probe/lower/dir" "$probe/upper" "$probe/work" "$probe/merged"
	# The status directory is made along with them, to save a process; it may lie on a root that can't be written.
	if mkdir -p -- "$@" "$status_dir" 2>/dev/null || mkdir -p -- "$@"; then
		make_lower
	fi
	options=lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work
	if [ "$step" = mount ] && mount -t overlay -o "$options" kata-dind "$probe/merged"; then
		prove_operations
		umount "$probe/merged"
	fi
	rm -rf -- "$probe" || :
}

make_lower() {
	for file in kept removed renamed dir/hidden; do
		printf 'old\n' >"$probe/lower/$file" || return 0
	done
	begin mount
	give_capability "$probe/lower/renamed"
}

# What goes without saying in C takes a program here, which not every image has: then only the step is left out.
give_capability() { # FILE; how it went in `capability`
	capability=passed
	if command -v setfattr >/dev/null; then
		# cap_net_raw=ep in its second version, capabilities(7)
		setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= "$1" || capability=failed
	elif command -v setcap >/dev/null; then
		setcap cap_net_raw=ep "$1" || capability=failed
	else
		capability=untested
	fi
}

# Few processes: one `rm` and one `mv` do what four would. A rename copies up a lower file with all its attributes.
prove_operations() {
	merged=$probe/merged
	begin copy-up
	printf 'new\n' >>"$merged/kept" || return 0
	lines_of "$merged/kept"
	[ "$lines" = old,new, ] || return 0
	lines_of "$probe/lower/kept"
	[ "$lines" = old, ] || return 0
	begin whiteout
	rm -r "$merged/removed" "$merged/dir" || return 0
	[ -c "$probe/upper/removed" ] && [ ! -e "$merged/removed" ] || return 0
	begin d_type # without it whiteouts show up in listings
	for file in "$merged"/*; do
		case ${file##*/} in kept | renamed) ;; *) return 0 ;; esac
	done
	begin 'file capability'
	[ "$capability" != failed ] || return 0
	begin rename "$capability"
	mv "$merged/renamed" "$merged/moved" && [ ! -e "$merged/renamed" ] || return 0
	lines_of "$merged/moved"
	[ "$lines" = old, ] || return 0
	begin 'opaque directory'
	mkdir "$merged/dir" && [ ! -e "$merged/dir/hidden" ] || return 0
	begin ''
}

lines_of() { # FILE: with a comma after each, in `lines`
	lines=
	while read -r line; do
		lines=$lines$line,
	done <"$1" || :
}

# --- settle: the first kind that can be prepared and proven

settle() {
	asked=$kind driver='' direct_io=null proof='' reason='' failed_step=choose
	reason_hint='give the container a volume there'
	for kind in $kinds; do
		reason=
		prepare
		[ -n "$reason" ] || verify
		if [ -z "$reason" ]; then
			speak info choose "the data root's kind is $kind"
			return 0
		fi
		because "$kind" "$reason"
		if [ -n "$precious" ]; then
			settle_for_less
			return 0
		fi
		undo
	done
	fall_back
}

# A kind that no other may take the place of: it is used without its proof, or not at all.
settle_for_less() {
	[ -n "$mounted" ] || refuse "$reason" "$reason_hint"
	free=$(stat -f -c '%a %d' "$path") || free='1000 1000'
	full=
	[ "${free% *}" -gt 64 ] && [ "${free#* }" -gt 64 ] || full=1 # blocks and files, of which the proof needs a few
	if [ "$proof$full" = '"write":"failed"1' ]; then
		speak warning verify "$path is full, so it was not proven again" 'free space in it: docker system prune'
	elif [ "$fallback" = none ]; then
		refuse "$reason" "$reason_hint"
	else
		fall_back_to "$reason"
	fi
}

undo() {
	[ -z "$mounted" ] || umount "$path"
	[ -z "$made" ] || rm -f -- "$image"
	[ "$kind" != loop ] || exec 9<&-
	direct_io=null device=${KATA_DIND_DEVICE:-}
	filesystem_of "$path"
}

fall_back() {
	message=$reason
	[ "$asked" != auto ] || { message=$reasons_text && failed_step=choose; }
	[ "$fallback" != none ] || refuse "$message" "$reason_hint"
	kind=kept
	fall_back_to "$message"
}

fall_back_to() { # MESSAGE
	if [ "$fallback" = fuse-overlayfs ]; then
		command -v fuse-overlayfs >/dev/null || refuse "$1; and there is no fuse-overlayfs" "$reason_hint"
		[ -c /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229 || refuse "$1; and there is no /dev/fuse" "$reason_hint"
	fi
	speak warning verify "$1; going on with $fallback, as KATA_DIND_FALLBACK says" "$reason_hint"
	driver=$fallback
	[ "$driver$containerd_store" != vfs1 ] || driver=native
}

refuse() { # MESSAGE HINT
	report
	stop 78 "$failed_step" "$1" "$2"
}

# --- tune: what dockerd would otherwise stumble on

tune() {
	# With these on, Docker reports `Native Overlay Diff: false` and compares layers file by file.
	for parameter in redirect_dir metacopy; do
		file=/sys/module/overlay/parameters/$parameter
		[ ! -w "$file" ] || { printf N >"$file"; } 2>/dev/null || :
	done
	nest_cgroups
	# Each container's runtime and most of what people run in them watch files; each container has a keyring.
	raise /proc/sys/fs/inotify/max_user_instances 1024
	raise /proc/sys/fs/inotify/max_user_watches 524288
	raise /proc/sys/kernel/keys/root_maxkeys 1000000
	raise /proc/sys/kernel/keys/root_maxbytes 25000000
}

# A cgroup with processes in it can't have children with controllers, so all processes move one level down.
nest_cgroups() {
	cgroup=/sys/fs/cgroup
	[ -w $cgroup/cgroup.subtree_control ] || return 0
	[ -d $cgroup/init ] || mkdir $cgroup/init 2>/dev/null || return 0 # busybox holds a read-only file for writable
	while read -r pid; do
		printf '%s\n' "$pid" >$cgroup/init/cgroup.procs || :
	done <$cgroup/cgroup.procs
	read -r controllers <$cgroup/cgroup.controllers || controllers= # without any there is no line
	for controller in $controllers; do
		printf '+%s\n' "$controller" >$cgroup/cgroup.subtree_control || :
	done
}

raise() { # FILE LEAST
	[ -w "$1" ] || return 0
	now=$2
	read -r now <"$1" || :
	[ "$now" -ge "$2" ] || { printf '%s\n' "$2" >"$1"; } 2>/dev/null || :
}

# --- report: what others may read

report() {
	count_bytes
	[ "$kind" = loop ] || [ "$kind" = block ] || device=
	escape "$path"
	path_text=$escaped
	escape "$device"
	facts="\"kind\":\"$kind\",\"path\":\"$path_text\",\"filesystem\":\"$filesystem\",\"device\":\"$escaped\""
	facts="$facts,\"size_bytes\":$size_bytes,\"direct_io\":$direct_io,\"storage_driver\":\"$driver\""
	facts="$facts,\"proof\":{$proof},\"reasons\":{$reasons}"
	[ -d "$status_dir" ] || mkdir -p -- "$status_dir" 2>/dev/null || :
	{ printf '{%s}\n' "$facts" >"$status_dir/status.json"; } 2>/dev/null ||
		speak warning report "cannot write $status_dir/status.json" 'give the container a writable /run'
}

# --- hand over: the command takes our place

hand_over() { # COMMAND...
	settle_driver
	find_dockerd "$@"
	if [ -n "$dockerd" ]; then
		left=$# behind=''
		while [ "$left" -gt 0 ]; do
			word=$1
			shift
			left=$((left - 1))
			value=
			case $behind$word in
			.--storage-driver=* | .-s=*) value=${word#*=} ;;
			.--storage-driver | .-s) value=${1:-} ;;
			.-s*) value=${word#-s} ;;
			*dockerd | *dockerd-entrypoint.sh) behind=. ;;
			esac
			compare_driver "$value"
			if [ -z "$contradicts" ]; then
				set -- "$@" "$word"
				continue
			fi
			say_stripped "the storage driver $value"
			case $word in --storage-driver | -s) shift && left=$((left - 1)) ;; esac
		done
		[ -z "$slow_listener" ] || set -- "$@" --tls=false
	fi
	trap - EXIT
	exec "$@"
}

# Without TLS dockerd waits 16 s for somebody to read its warning, and 1 s when it is told that TLS is not wanted.
find_dockerd() { # COMMAND...: it is dockerd's in `dockerd`; it would wait at its listener, in `slow_listener`
	dockerd='' slow_listener='' tls='' before=''
	for word in "$@"; do
		case $before,$word in
		*,dockerd | *,*/dockerd) dockerd=dockerd ;;
		*,dockerd-entrypoint.sh | *,*/dockerd-entrypoint.sh) dockerd=entrypoint ;;
		*dockerd-entrypoint.sh,[!-]*) dockerd='' ;; # which then runs another program
		*,--tls | *,--tls=* | *,--tlsverify | *,--tlsverify=*) tls=1 ;;
		*,tcp://* | *,--host=tcp://* | *,-H=tcp://* | *,-Htcp://*) slow_listener=1 ;;
		esac
		before=$word
	done
	# Unless it is given dockerd's name, the official entrypoint adds a listener; with TLS where it has a directory.
	[ "$dockerd" != entrypoint ] || [ -n "${DOCKER_TLS_CERTDIR:-}" ] || slow_listener=1
	case $tls$config in 1* | *'"tls"'* | *'"tlsverify"'*) slow_listener= ;; esac
}

settle_driver() { # what environment and daemon.json say of it
	compare_driver "${DOCKER_DRIVER:-}"
	if [ -n "$contradicts" ]; then
		say_stripped "DOCKER_DRIVER=$DOCKER_DRIVER"
		unset DOCKER_DRIVER
	fi
	# The file is the user's, but dockerd takes the variable first.
	compare_driver "$config_driver"
	if [ -z "${DOCKER_DRIVER:-}" ] && [ -n "$contradicts" ]; then
		say_stripped "the storage driver $config_driver of $config_file"
		DOCKER_DRIVER=overlay2
		[ -z "$containerd_store" ] || DOCKER_DRIVER=overlayfs
		export DOCKER_DRIVER
	fi
	[ -z "$driver" ] || export "DOCKER_DRIVER=$driver"
}

compare_driver() { # STORAGE_DRIVER: that it is not what was proven, in `contradicts`
	contradicts=1
	case $1 in
	'' | "$driver" | "$fallback") contradicts= ;; # with KATA_DIND_FALLBACK it was called good enough
	vfs | native | fuse-overlayfs | aufs | overlay | devicemapper) ;;
	btrfs | zfs) [ "$filesystem" != "$1" ] || contradicts= ;;
	*) [ -n "$driver" ] || contradicts= ;;
	esac
	# Images that another driver made would be out of sight.
	[ ! -d "$path/image/$1" ] || contradicts=
}

say_stripped() { # WHAT
	speak warning exec "left out $1, for ${driver:-overlay} is what works on this data root" 'leave it out yourself'
}

# What we did not think of must not look like the command's own end.
unexpected() { # STATUS
	case $1 in 64 | 78 | 143) return 0 ;; esac
	stop 78 unexpected "the entrypoint failed with status $1" 'see the lines above'
}

# A process 1 takes no TERM without a handler; dockerd brings its own.
trap 'exit 143' TERM INT
trap 'unexpected $?' EXIT
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || stop 64 parse 'no command was given' 'usage: entrypoint.sh [--] COMMAND [ARGS...]'
parse "$@"
detect
choose
settle
tune
report
[ "${KATA_DIND_LOG:-info}" = error ] || printf '{"kata_dind":"info","step":"ready",%s}\n' "$facts" >&2
hand_over "$@"
