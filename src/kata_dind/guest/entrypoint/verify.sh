# --- verify: a real overlay mount, and what dockerd will do with it

verify() { # sets `proof` to each step's outcome, and `reason` if one failed
	local step probe capability proven hint evidence
	proof='' step='' probe=$path/.kata-dind-probe
	if [ "$user" != 0 ]; then # only: rootless
		verify_without_root
		return 0
	fi
	prove
	if [ -z "$step" ]; then
		proven='mount, copy-up, whiteout, d_type, rename, opaque directory'
		[ "$capability" != passed ] || proven="$proven, file capability"
		info verify "overlay works on $filesystem: $proven"
		return 0
	fi
	hint='set KATA_DIND_DATA_ROOT to loop, block or memory'
	[ "$step" != write ] || hint='make it writable, with space and inodes left'
	evidence=$(dmesg 2>/dev/null | grep -i overlay | tail -n 3) || evidence=
	unfit verify "overlay does not work on $filesystem at $path: $step failed${evidence:+; dmesg: $evidence}" "$hint"
	begin '' failed
}

begin() { # STEP [OUTCOME]: notes the outcome of the step before
	[ -z "$step" ] || proof="${proof:+$proof,}\"$step\":\"${2:-passed}\""
	step=$1
}

prove() { # sets `step` to the step that failed
	local options
	begin write
	[ ! -e "$probe" ] || rm -rf -- "$probe" || return 0
	set -- "$probe/lower/dir" "$probe/upper" "$probe/work" "$probe/merged"
	# The status directory is made along with them, to save a process; it may lie on a read-only root.
	if mkdir -p -- "$@" "$status_dir" 2>/dev/null || mkdir -p -- "$@"; then
		make_lower
	fi
	options=lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work
	# Root of a user namespace can't have the other attributes; dockerd looks at the same.
	[ -z "${user_namespace:-}" ] || options=$options,userxattr # only: rootless
	if [ "$step" = mount ] && mount -t overlay -o "$options" kata-dind "$probe/merged"; then
		prove_operations
		umount "$probe/merged"
	fi
	rm -rf -- "$probe" || :
}

make_lower() {
	local file
	for file in kept removed renamed dir/hidden; do
		printf 'old\n' >"$probe/lower/$file" || return 0
	done
	begin mount
	give_capability "$probe/lower/renamed"
}

# Where an image has no program for it and none of ours can run, only this step is left out.
give_capability() { # FILE: sets `capability` to the outcome
	local called
	capability=passed
	if command -v setfattr >/dev/null; then
		# cap_net_raw=ep in its second version, capabilities(7)
		setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= "$1" || capability=failed
	elif command -v setcap >/dev/null; then
		setcap cap_net_raw=ep "$1" || capability=failed
	else
		# The addresses of the name and of the value in the program.
		system_call "$1" "$probe/call" fsetxattr AIgAQACcAEAA
		case $called in 0) ;; '') capability=untested ;; *) capability=failed ;; esac
	fi
}

# Few processes: one `rm` and one `mv` do what four would. A rename copies up a lower file with all its attributes.
prove_operations() {
	local merged file lines
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

lines_of() { # FILE: sets `lines` to its lines, with a comma after each
	local line
	lines=
	while read -r line; do
		lines=$lines$line,
	done <"$1" || :
}
