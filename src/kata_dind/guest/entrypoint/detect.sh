# --- detect: what lies under the data root

detect() {
	step=detect
	[ -d "$path" ] || text=$(mkdir -p -- "$path" 2>&1) ||
		stop "cannot make $path: $text" 'mount a volume there'
	# The loop kind looks at the directory of its disk instead; each look costs thousands of system calls in dash.
	if [ "$kind" != loop ]; then # only: other-kinds
		filesystem_of "$path"
		path=$resolved
	fi
}

go_back() { # to where the command is to run
	cd -- "$home" 2>/dev/null || cd /
}

# PATH: sets `resolved` to it without symbolic links, as mountinfo has it; `filesystem` to its type, `share` to that as
# well if others may see its files, and empties it if not; `longest` to the mount point, `mount_numbers` to its device's,
# and `is_mount_point`. Of the mounts that the path lies below, the one with the longest mount point counts, and the last
# of several there. Only the type after the dash tells the truth: under Kata the source is `none` or `kataShared`. What
# virtiofsd has announced is mounted at the first access. In passing, this sets `run_type`.
filesystem_of() {
	resolved=$1 filesystem=unknown longest='' share='' run_type=''
	! cd -P -- "$1" 2>/dev/null || resolved=$PWD
	go_back
	wanted=$resolved/ # as mountinfo writes it, proc_pid_mountinfo(5)
	until [ "$wanted" = "${wanted%% *}" ]; do
		wanted=${wanted%% *}\\040${wanted#* }
	done
	while read -r _ _ numbers _ point rest; do
		rest=${rest#*" - "}
		case $point in / | /run) run_type=${rest%% *} ;; esac
		case $wanted in "${point%/}"/*) ;; *) continue ;; esac
		[ ${#point} -ge ${#longest} ] || continue
		longest=$point mount_numbers=$numbers filesystem=${rest%% *}
	done </proc/self/mountinfo
	is_mount_point='' # only: rootless
	[ "$longest/" != "$wanted" ] || is_mount_point=1 # only: rootless
	case $filesystem in virtiofs | fuse* | 9p | nfs*) share=$filesystem ;; esac
}
