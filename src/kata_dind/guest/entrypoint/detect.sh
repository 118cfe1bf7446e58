# --- detect: what lies under the data root

detect() {
	local text resolved
	[ -d "$path" ] || text=$(mkdir -p -- "$path" 2>&1) ||
		stop detect "cannot make $path: $text" 'give the container a writable root or a volume there'
	resolve "$path"
	path=$resolved
	if [ -n "$directory" ]; then
		resolve "$directory"
		directory=$resolved
	fi
	filesystem_of "$path"
	speak info detect "$path lies on $filesystem"
	case $run_filesystem in
	virtiofs* | fuse* | 9p*)
		speak info detect "/run lies on ${run_filesystem%% *}, where containers start slowly" \
			'mount a tmpfs there, in a pod an emptyDir with medium: Memory'
		;;
	esac
}

# PATH: sets `resolved` to it without symbolic links, as mountinfo has it. In passing, what virtiofsd has announced is
# mounted, which is done at the first access.
resolve() {
	local here
	here=$PWD resolved=$1
	! cd -P -- "$1" 2>/dev/null || resolved=$PWD
	cd -- "$here" 2>/dev/null || cd /
}

# PATH: sets `filesystem` to its type, `mount_point`, `mount_numbers` to its device's, `mount_flags`, and `is_mount_point`.
# Of the mounts that the path lies below, the one with the longest mount point counts, and the last of several there. Only
# the type after the dash tells the truth: under Kata the source is `none` or `kataShared`. In passing, this sets
# `run_filesystem`, for each pass costs thousands of system calls in dash.
filesystem_of() {
	local wanted numbers point rest
	wanted=$1 filesystem=unknown mount_point='' mount_numbers='' mount_flags='' run_filesystem=''
	case $wanted in # as mountinfo writes them, proc_pid_mountinfo(5)
	*[\\\ ]*) wanted=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g') ;;
	esac
	while read -r _ _ numbers _ point rest; do
		case $point in / | /run) run_filesystem=${rest#*" - "} ;; esac
		case $wanted/ in
		"${point%/}"/*)
			if [ ${#point} -ge ${#mount_point} ]; then
				mount_point=$point mount_numbers=$numbers
				mount_flags=${rest%% *}
				rest=${rest#*" - "}
				filesystem=${rest%% *}
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

# Sets `memory_mib` to what can be used, and `memory_of` to whose it is: the guest's, or what a cgroup allows, if less.
memory_mib_of_guest() {
	local key value below directory file
	memory_mib=0 memory_of="the guest's memory"
	while read -r key value _; do
		[ "$key" != MemTotal: ] || memory_mib=$((value / 1024))
	done </proc/meminfo
	while IFS=: read -r _ key below; do
		case ,$key, in
		,,) directory=/sys/fs/cgroup file=memory.max ;;
		*,memory,*) directory=/sys/fs/cgroup/memory file=memory.limit_in_bytes ;;
		*) continue ;;
		esac
		while :; do
			value=max
			[ ! -r "$directory$below/$file" ] || read -r value <"$directory$below/$file" || :
			case $value in
			'' | *[!0-9]*) ;;
			*)
				if [ $((value / 1048576)) -lt $memory_mib ]; then
					memory_mib=$((value / 1048576))
					memory_of="the $memory_mib MiB that the container's memory limit allows"
				fi
				;;
			esac
			[ -n "$below" ] || break
			below=${below%/*}
		done
	done </proc/self/cgroup
}
