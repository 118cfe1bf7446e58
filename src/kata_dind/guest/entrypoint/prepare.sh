# --- prepare: make the data root; memory, block and loop follow

# Sets `reason` when the kind is not possible, and `precious` when no other may take its place, because a device was
# given or the disk may hold data.
prepare() {
	local share
	mounted='' made='' precious='' turn_file='' guard=''
	is_share "${run_filesystem%% *}" # as in a Kata guest
	on_share=$share
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
	require_room_for_a_mount
	[ -z "$reason" ] || return 0
	"prepare_$kind"
	[ -z "$mounted" ] || filesystem_of "$path"
}

# A mount would hide whatever is in the directory.
require_room_for_a_mount() {
	local theirs entry
	theirs=
	for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
		[ "$entry" != "$directory" ] || continue
		case ${entry#"$path"/} in
		@LOOP_FILE@ | @LOOP_FILE@.new* | @LOOP_FILE@.mounting | .kata-dind-probe | lost+found) ;;
		*) [ ! -e "$entry" ] || theirs=${entry#"$path"/} ;; # a pattern without a match stands for itself
		esac
	done
	[ -z "$theirs" ] ||
		unfit prepare "$path is not empty, and a mount would hide $theirs" \
			'move away what is in it, or use another data root'
}
