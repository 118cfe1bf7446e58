# --- verify: a real overlay mount, and what dockerd will do with it

verify() { # sets `proof` to the outcome of each part, and `reason` if one failed
	step=verify proof='' part='' probe=$path/.kata-dind-probe
	if [ "$user" != 0 ]; then # only: rootless
		verify_without_root
		return 0
	fi
	prove
	go_back
	rm -rf -- "$probe" || :
	[ -n "$part" ] || return 0
	begin "$part" failed
	# A disk that holds data is used without its proof if that fails because it is full: only the program can free space.
	# The proof needs a few blocks and files.
	case $precious$mounted$part$(stat -f -c ' %a %d ' "$path") in # only: disk
	11write*' '?' '* | 11write*' '??' '*)
		warn "$path is full, so it was not proven again" 'free space in it: docker system prune'
		return 0
		;;
	esac
	hint='set another KATA_DIND_DATA_ROOT'
	hint='set KATA_DIND_DATA_ROOT to loop, block or memory' # only: virtiofs
	[ "$part" != write ] || hint='make it writable, with space and inodes left'
	evidence=$(dmesg 2>/dev/null | grep -i overlay | tail -n 3)
	unfit "overlay does not work on $filesystem at $path: $part failed${evidence:+; dmesg: $evidence}" "$hint"
}

begin() { # PART [OUTCOME]: notes the outcome of the part before
	[ -z "$part" ] || proof="${proof:+$proof,}\"$part\":\"${2:-passed}\""
	part=$1
}

# Few processes: one `rm` and one `mv` do what four would. A rename copies up a lower file with all its attributes.
prove() { # sets `part` to the one that failed
	begin write
	[ ! -e "$probe" ] || rm -rf -- "$probe" || return 0
	# The status directory is made along with them, to save a process; it may lie on a read-only root.
	mkdir -p -- "$probe/lower/dir" "$probe/upper" "$probe/work" "$probe/merged" "$status_dir" 2>/dev/null || :
	cd -- "$probe" 2>/dev/null || return 0
	for file in kept removed renamed dir/hidden; do
		echo old >"lower/$file" || return 0
	done
	begin mount
	# The addresses of the name and of the value in the program. Where none can run, only this part is left out.
	system_call lower/renamed vgAA BwAA AKYAQAC6AEAA # only: copy
	give_capability lower/renamed # only: whole
	case $called in 0) capability=passed ;; '') capability=untested ;; *) capability=failed ;; esac
	# Root of a user namespace can't have the other attributes; dockerd looks at the same.
	layers=lowerdir=lower,upperdir=upper,workdir=work
	[ -z "${user_namespace:-}" ] || layers=$layers,userxattr # only: memory-or-share
	# Since Linux 5.10 `volatile` spares the disk three syncs, which take longer than all else here.
	mount -t overlay -o "$layers,volatile" kata-dind merged 2>/dev/null ||
		mount -t overlay -o "$layers" kata-dind merged || return 0
	# shellcheck disable=SC2310 # what begin does can't fail
	{
		begin copy-up && cd merged && echo new >>kept && { read -r old && read -r new; } <kept &&
			[ "$old$new" = oldnew ] && { read -r old && ! read -r new; } <../lower/kept &&
			begin whiteout && rm -r removed dir && [ -c ../upper/removed ] && [ ! -e removed ] &&
			begin d_type && set -- * && [ "$*" = 'kept renamed' ] && # else whiteouts show up
			begin 'file capability' && [ "$capability" != failed ] &&
			begin rename "$capability" && mv renamed moved && [ ! -e renamed ] &&
			read -r old <moved && [ "$old" = old ] &&
			begin 'opaque directory' && mkdir dir && [ ! -e dir/hidden ] && begin ''
	} || :
	cd "$probe"
	umount merged
}

# FILE: an image's own program comes first.
give_capability() { # only: whole
	if command -v setfattr >/dev/null; then
		called=0
		# cap_net_raw=ep in its second version, capabilities(7)
		setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= "$1" || called=1
	else
		system_call "$1" vgAA BwAA AKYAQAC6AEAA
	fi
}
