#!/bin/sh
# kata-dind guest entrypoint: gives dockerd a data root that is proven to work, then runs the image's own command.
#
#   entrypoint.sh [--] COMMAND [ARGS...]
#
#   KATA_DIND_DATA_ROOT  auto (default), memory, loop, block or virtiofs
#   KATA_DIND_PATH       the data root; /var/lib/docker unless the command names another
#   KATA_DIND_SIZE       size of a memory or loop data root: 512M, 20G
#   KATA_DIND_DIR        where the loop kind keeps its disk file
#   KATA_DIND_DEVICE     the block kind's device
#   KATA_DIND_FALLBACK   none (default), or vfs: what to do when no kind works
#   KATA_DIND_CHECK      1: check the file system in full before it is used
#   KATA_DIND_LOG        info (default), or error: what to say on standard error
#
# Exit status: 64 for bad input, 78 when no working data root can be had, else the command's own.
# Runs in dash and busybox ash, with what the official dind images hold.
set -eu

status_dir=${KATA_DIND_STATUS_DIR:-/run/kata-dind}

# --- speaking: JSON lines on standard error

escape() {
	case $1 in
	*[\\\"[:cntrl:]]*) printf '%s' "$1" | tr '[:cntrl:]' ' ' | sed 's/[\\"]/\\&/g' ;;
	*) printf '%s' "$1" ;;
	esac
}

speak() { # LEVEL STEP MESSAGE [HINT]
	if [ "$1" = info ] && [ "${KATA_DIND_LOG:-info}" = error ]; then
		return 0
	fi
	printf '{"kata_dind":"%s","step":"%s","message":"%s","hint":"%s"}\n' \
		"$1" "$2" "$(escape "$3")" "$(escape "${4:-}")" >&2
}

stop() { # STATUS STEP MESSAGE [HINT]
	speak error "$2" "$3" "${4:-}"
	exit "$1"
}

# --- parse: what was asked

size_in_mib() { # SIZE: a number and K, M, G or T; prints nothing for another
	number=${1%[KMGT]}
	case $number in '' | 0* | *[!0-9]* | ??????????*) return 0 ;; esac
	case $1 in
	*K) printf '%s\n' $(((number + 1023) / 1024)) ;;
	*M) printf '%s\n' "$number" ;;
	*G) printf '%s\n' $((number * 1024)) ;;
	*T) printf '%s\n' $((number * 1024 * 1024)) ;;
	esac
}

parse() {
	kind=${KATA_DIND_DATA_ROOT:-auto}
	case $kind in
	auto | memory | loop | block | virtiofs) ;;
	*) stop 64 parse "KATA_DIND_DATA_ROOT is '$kind'" 'use auto, memory, loop, block or virtiofs' ;;
	esac
	fallback=${KATA_DIND_FALLBACK:-none}
	case $fallback in
	none | vfs) ;;
	*) stop 64 parse "KATA_DIND_FALLBACK is '$fallback'" 'use none or vfs' ;;
	esac
	path=${KATA_DIND_PATH:-$(data_root_of "$@")}
	case $path in
	/*) ;;
	*) stop 64 parse "the data root '$path' is not an absolute path" 'set KATA_DIND_PATH=/var/lib/docker' ;;
	esac
	size=${KATA_DIND_SIZE:-20G}
	size_mib=$(size_in_mib "$size")
	[ -n "$size_mib" ] || stop 64 parse "KATA_DIND_SIZE is '$size'" 'use a number and K, M, G or T, like 20G'
	device=${KATA_DIND_DEVICE:-}
	directory=${KATA_DIND_DIR:-}
}

data_root_of() { # COMMAND...: what --data-root or -g says
	found=/var/lib/docker
	while [ $# -gt 0 ]; do
		case $1 in
		--data-root=*) found=${1#*=} ;;
		--data-root | -g) [ $# -lt 2 ] || found=$2 ;;
		esac
		shift
	done
	printf '%s\n' "$found"
}

# --- detect: what lies under the data root

detect() {
	[ -d "$path" ] || mkdir -p -- "$path" || stop 78 detect "cannot make $path" 'give the container a writable root or a volume there'
	filesystem=$(filesystem_of "$path")
	speak info detect "$path lies on $filesystem"
}

# The mount with the longest mount point that is a prefix wins, and the last of equals. Only the type after the dash
# tells the truth: under Kata the source is `none` or `kataShared`.
filesystem_of() { # PATH
	wanted=$1 best=0 type=unknown
	while read -r _ _ _ _ point rest; do
		case $wanted/ in
		"${point%/}"/*)
			if [ ${#point} -ge "$best" ]; then
				best=${#point}
				rest=${rest#*" - "}
				type=${rest%% *}
			fi
			;;
		esac
	done </proc/self/mountinfo
	printf '%s\n' "$type"
}

# --- choose: the kind to prepare

choose() {
	if [ "$kind" = auto ]; then
		if [ -n "$device" ]; then
			kind=block
		else
			case $filesystem in
			ext4 | xfs | btrfs | tmpfs) kind=kept ;;
			*) kind=loop ;;
			esac
		fi
	fi
	speak info choose "the data root's kind is $kind"
}

# --- prepare: make it

prepare() {
	case $kind in
	kept) ;;
	memory) prepare_memory ;;
	loop) prepare_loop ;;
	block) prepare_block ;;
	virtiofs) ;;
	esac
	[ "$kind" = kept ] || filesystem=$(filesystem_of "$path")
}

prepare_memory() {
	mount -t tmpfs -o "size=${size_mib}m,mode=0710" kata-dind "$path" ||
		stop 78 prepare "cannot mount a tmpfs of $size on $path" 'is the container privileged?'
	while read -r key value _; do
		[ "$key" = MemTotal: ] || continue
		[ $((size_mib * 2048)) -le "$value" ] ||
			speak warning prepare "a memory data root of $size may take more than half of the guest's memory" \
				'give the sandbox more memory, or the data root another kind'
	done </proc/meminfo
}

prepare_block() {
	[ -n "$device" ] || stop 64 prepare 'the block kind needs KATA_DIND_DEVICE' 'set it to the device, like /dev/vdb'
	[ -b "$device" ] || stop 78 prepare "$device is not a block device" 'set KATA_DIND_DEVICE to one'
	format_if_blank "$device"
	mount_disk "$device"
}

prepare_loop() {
	directory=${directory:-$path}
	mkdir -p -- "$directory" || stop 78 prepare "cannot make $directory" 'set KATA_DIND_DIR to a directory on the share'
	image=$directory/kata-dind.img
	if [ ! -e "$image" ]; then
		# Named only when it has its size, so that a start that is killed half-way leaves no short disk.
		rm -f -- "$image.new"
		{ truncate -s "${size_mib}M" "$image.new" && mv -- "$image.new" "$image"; } ||
			stop 78 prepare "cannot make $image of $size" "is there space in $directory?"
	fi
	attach_loop
	format_if_blank "$device"
	mount_disk "$device"
}

# Buffered loop writes go through the share page by page: 9 MB/s against 159 MB/s with direct I/O.
attach_loop() {
	make_loop_nodes
	device=$(losetup -f) || stop 78 prepare 'there is no free loop device' 'does the guest kernel have BLK_DEV_LOOP?'
	[ -b "$device" ] || mknod -m 0600 "$device" b 7 "${device#/dev/loop}"
	losetup "$device" "$image" || stop 78 prepare "cannot attach $image to $device" 'see dmesg'
	if ! losetup --direct-io=on "$device" 2>/dev/null; then
		speak warning prepare "the loop device of $image has no direct I/O, so writes are slow" \
			'use a losetup that has --direct-io, and a share that takes O_DIRECT'
	fi
}

# Privileged Kata containers have no loop nodes: https://github.com/kata-containers/kata-containers/issues/8118
make_loop_nodes() {
	[ -c /dev/loop-control ] || mknod -m 0600 /dev/loop-control c 10 237
	number=0
	while [ $number -lt 8 ]; do
		[ -b /dev/loop$number ] || mknod -m 0600 /dev/loop$number b 7 $number
		number=$((number + 1))
	done
}

# Only what is blank from end to end of its first MiB, where every file system and partition table has its mark, is ours
# to format.
format_if_blank() { # DEVICE
	# Probed anew: libblkid's cache tells what another disk held under the same name. busybox knows no -p, and ignores it.
	case $(blkid -p "$1" 2>/dev/null) in
	*TYPE=\"ext4\"*) on_disk=ext4 && return 0 ;;
	*TYPE=\"xfs\"*) on_disk=xfs && return 0 ;;
	'') ;;
	*) stop 78 prepare "$1 holds something that is not a data root; it was not touched" "look with: blkid $1" ;;
	esac
	content=$(content_of "$1")
	[ "$content" = 0 ] ||
		stop 78 prepare "$1 is not blank, and holds no file system we know; it was not touched" "wipe it with: wipefs -a $1"
	speak info prepare "formatting $1"
	bytes=$(blockdev --getsize64 "$1") || stop 78 prepare "cannot tell how large $1 is" 'is blockdev in the image?'
	journal_mib=$((bytes / 4194304)) # a small disk has no room for more
	[ $journal_mib -le 64 ] || journal_mib=64
	mkfs.ext4 -q -F -m 0 -i 16384 -L kata-dind -J size=$journal_mib \
		-E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$1" >&2 ||
		stop 78 prepare "cannot format $1" 'is mkfs.ext4 in the image, and the device large enough?'
	on_disk=ext4
}

content_of() { # DEVICE: prints 0 for nothing but zeros, an x for anything else, and neither when it can't be read
	head -c 1048576 "$1" | tr -c '\0' x | tr '\0' 0 | tr -s 0x | head -c 2 || :
}

mount_disk() { # DEVICE
	# XFS replays its log when it is mounted.
	if [ "${KATA_DIND_CHECK:-}" = 1 ] && [ "$on_disk" = ext4 ] && command -v e2fsck >/dev/null; then
		speak info prepare "checking the file system on $1, which saw a power cut"
		code=0
		e2fsck -f -p "$1" >&2 || code=$?
		[ $code -lt 4 ] || stop 78 prepare "the file system on $1 is damaged" "repair it with: e2fsck -f $1"
	fi
	mount -o noatime,discard "$1" "$path" ||
		stop 78 prepare "cannot mount $1 on $path" 'see dmesg for the file system it holds'
}

# --- verify: a real overlay mount, and what dockerd will do with it

verify() {
	probe=$path/.kata-dind-probe
	failed=
	hint='is it writable, with space and inodes left?'
	{ rm -rf -- "$probe" && mkdir -p "$probe/lower/dir" "$probe/upper" "$probe/work" "$probe/merged"; } ||
		stop 78 verify "cannot make $probe" "$hint"
	for file in kept removed renamed dir/hidden; do
		printf 'old\n' >"$probe/lower/$file" || stop 78 verify "cannot write $probe/lower/$file" "$hint"
	done
	options=lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work
	if mount -t overlay -o "$options" kata-dind "$probe/merged" 2>/dev/null; then
		verify_operations
		umount "$probe/merged"
	else
		failed=mount
	fi
	rm -rf -- "$probe"
	if [ -n "$failed" ]; then
		refuse
	else
		speak info verify "overlay works on $filesystem: mount, whiteout, opaque directory, rename, copy-up, d_type"
	fi
}

# Leaves in `failed` the step that failed. Few processes, for each costs an emulated guest 20 ms: one `rm` and one `mv`
# do what four would.
verify_operations() {
	merged=$probe/merged
	failed=copy-up
	printf 'new\n' >>"$merged/kept" || return 0
	merged_lines=$(lines_of "$merged/kept")
	lower_lines=$(lines_of "$probe/lower/kept")
	[ "$merged_lines" = old,new, ] && [ "$lower_lines" = old, ] || return 0
	failed=whiteout
	rm -r "$merged/removed" "$merged/dir" || return 0
	[ -c "$probe/upper/removed" ] && [ ! -e "$merged/removed" ] || return 0
	failed='d_type' # without it whiteouts show up in listings
	for file in "$merged"/*; do
		case ${file##*/} in kept | renamed) ;; *) return 0 ;; esac
	done
	failed=rename
	mv "$merged/renamed" "$merged/moved" && [ ! -e "$merged/renamed" ] || return 0
	merged_lines=$(lines_of "$merged/moved")
	[ "$merged_lines" = old, ] || return 0
	failed='opaque directory'
	mkdir "$merged/dir" && [ ! -e "$merged/dir/hidden" ] || return 0
	failed=
}

lines_of() { # FILE
	while read -r line; do
		printf '%s,' "$line"
	done <"$1"
}

refuse() {
	evidence=$(dmesg 2>/dev/null | grep -i overlay | tail -n 5) || evidence=
	hint='set KATA_DIND_DATA_ROOT to loop, block or memory'
	message="overlay does not work on $filesystem at $path: $failed failed${evidence:+; dmesg: $evidence}"
	[ "$fallback" = vfs ] || stop 78 verify "$message" "$hint"
	speak warning verify "$message; going on with vfs, as KATA_DIND_FALLBACK says" "$hint"
	export DOCKER_DRIVER=vfs
}

# --- tune: what dockerd would otherwise stumble on

tune() {
	# With these on, Docker reports `Native Overlay Diff: false` and compares layers file by file.
	for parameter in redirect_dir metacopy; do
		file=/sys/module/overlay/parameters/$parameter
		[ ! -w "$file" ] || printf N >"$file" || :
	done
	nest_cgroups
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

# --- the status that others may read

report() {
	[ -d "$status_dir" ] || mkdir -p "$status_dir"
	facts=$(printf '"kind":"%s","path":"%s","filesystem":"%s","device":"%s"' \
		"$kind" "$(escape "$path")" "$filesystem" "$(escape "$device")")
	printf '{%s}\n' "$facts" >"$status_dir/status.json"
	[ "${KATA_DIND_LOG:-info}" = error ] || printf '{"kata_dind":"info","step":"ready",%s}\n' "$facts" >&2
}

# A process 1 takes no TERM without a handler; dockerd brings its own.
trap 'exit 143' TERM INT
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || stop 64 parse 'no command was given' 'usage: entrypoint.sh [--] COMMAND [ARGS...]'
parse "$@"
detect
choose
prepare
verify
tune
report
exec "$@"
