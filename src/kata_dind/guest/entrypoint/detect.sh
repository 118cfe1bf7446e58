# --- detect: what lies under the data root

detect() {
	local text resolved share
	[ -d "$path" ] || text=$(mkdir -p -- "$path" 2>&1) ||
		stop detect "cannot make $path: $text" 'give the container a writable root or a volume there'
	resolve "$path"
	path=$resolved
	if [ -n "$directory" ]; then # only: loop
		resolve "$directory"
		directory=$resolved
	fi
	filesystem_of "$path"
	info detect "$path lies on $filesystem"
	is_share "${run_filesystem%% *}"
	[ -z "$share" ] || info detect "/run lies on $share, where containers start slowly" \
		'mount a tmpfs there, in a pod an emptyDir with medium: Memory'
}

# PATH: sets `resolved` to it without symbolic links, as mountinfo has it. In passing, what virtiofsd has announced is
# mounted, which is done at the first access.
resolve() {
	local here
	here=$PWD resolved=$1
	! cd -P -- "$1" 2>/dev/null || resolved=$PWD
	cd -- "$here" 2>/dev/null || cd /
}

is_share() { # FILESYSTEM: sets `share` to it if others may see its files as well, and empties it if not
	share=$1
	case $1 in virtiofs | fuse* | 9p | nfs*) ;; *) share= ;; esac
}

# PATH: sets `filesystem` to its type, `mount_point`, `mount_numbers` to its device's, `mount_flags`, and
# `is_mount_point`. Of the mounts that the path lies below, the one with the longest mount point counts, and the last of
# several there. Only the type after the dash tells the truth: under Kata the source is `none` or `kataShared`. In
# passing, this sets `run_filesystem`, for each pass costs thousands of system calls in dash.
filesystem_of() {
	local wanted numbers point rest
	wanted=$1 filesystem=unknown mount_point='' mount_numbers='' mount_flags='' run_filesystem='' is_mount_point=''
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
	[ "$mount_point" != "$wanted" ] || is_mount_point=1
}
