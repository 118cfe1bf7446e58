# --- prepare: what is mounted below the data root, such as logs that another container reads, goes along with it

# Sets `below` to the mount points, with a space around each; a runtime has made their directories in the data root. That
# of a loop disk is not one of them: it stays under the disk.
find_mounts_below() {
	below=' '
	! cd -P -- "$path" 2>/dev/null || path=$PWD # as mountinfo has it
	go_back
	while read -r _ _ _ _ point _; do
		case $point in "$path"/*) ;; *) continue ;; esac
		case $point in
		*\\*) continue ;; # a space, perhaps; it stays under the disk, which is refused
		"$directory" | "$directory"/*) [ "$directory" -ef "$path" ] || continue ;; # only: loop
		esac
		below="$below$point "
	done </proc/self/mountinfo
}

hold_mount() { # PATH PLACE: before a mount hides it
	{ mkdir -p -- "$2" && mount --bind "$1" "$2"; } ||
		unfit "cannot keep what is mounted on $1" 'move that mount out of the data root'
}

restore_mount() { # PATH PLACE
	{ mkdir -p -- "$1" && mount --bind "$2" "$1" && umount "$2"; } ||
		stop "cannot mount on $1 what was mounted there" 'move that mount out of the data root'
}

drop_mount() { # PATH PLACE: when nothing hides it any more
	umount "$2" 2>/dev/null || :
}

each_below() { # FUNCTION: calls it with each mount point and the place that it is held at
	number=0
	set -f
	for point in $below; do
		number=$((number + 1))
		"$1" "$point" "$status_dir/below/$number"
	done
	set +f
}
