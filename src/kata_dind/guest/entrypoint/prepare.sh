# --- prepare: make the data root; memory, block and loop follow

# Sets `reason` when the kind is not possible, and `precious` when no other may take its place, because a device was
# given or the disk may hold data.
prepare() {
	step=prepare mounted='' made='' precious='' turn_file='' guard=''
	below='' # only: below
	if [ "$user" != 0 ]; then # only: rootless
		prepare_without_root
		return 0
	fi
	case $kind,$filesystem$is_mount_point in # only: rootless
	kept,*) # only: auto
		prepare_kept
		return 0
		;;
	virtiofs,*) return 0 ;; # only: virtiofs
	memory,tmpfs1) # only: memory
		prepare_memory
		return 0
		;;
	esac
	[ "$kind" != block ] || precious=1 # only: block
	find_mounts_below # only: below
	require_room
	each_below hold_mount # only: below
	[ -z "$reason" ] || return 0 # only: choice
	"prepare_$kind"
}

# A mount would hide whatever is in the directory.
require_room() {
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		case "$below" in *" $entry "*) continue ;; esac # only: below
		case ${entry##*/} in @LOOP_FILE@* | .kata-dind-probe | lost+found) continue ;; esac
		# A pattern without a match stands for itself.
		[ ! -e "$entry" ] || [ "$entry" -ef "$directory" ] ||
			unfit "$path is not empty, and a mount would hide ${entry##*/}" 'move that away'
	done
}
