# --- rootless: a container whose user is not root, as in the dind-rootless images

# In a user namespace, where rootless dockerd will mount its overlays, this user can mount one, too.
verify_without_root() {
	evidence=''
	prove_without_root
	remove_probe
	if [ -z "$part" ]; then
		info "overlay works on $filesystem in a user namespace"
		warn_without_tun
		return 0
	fi
	hint="mount a disk with ext4 or xfs on $path"
	case $part,$filesystem in
	namespace,ext4 | namespace,xfs | namespace,btrfs | namespace,tmpfs)
		part=mount
		begin '' untested
		warn "$path is not proven, because user $user cannot make a user namespace: $evidence" \
			'allow user namespaces, which rootless Docker needs: privileged, and sysctl user.max_user_namespaces'
		return 0
		;;
	namespace,*) part=mount ;;
	*,tmpfs) hint="use a kernel of 6.6 or later, or $hint" ;;
	*,ext4 | *,xfs | *,btrfs)
		hint='use a kernel of 5.11 or later that lets user namespaces mount, or KATA_DIND_FALLBACK=fuse-overlayfs'
		;;
	esac
	# With `fsGroup` a volume belongs to root and a group that the user namespace does not have; rootless Docker fails,
	# too.
	if [ "$part" = write ] || [ ! -O "$path" ]; then
		hint="give it to the user in an init container, with space and inodes left:\
 chown $user:$user $path; chmod g-s $path"
	fi
	begin "$part" failed
	unfit "overlay does not work on $filesystem at $path for user $user: $part failed${evidence:+; $evidence}" \
		"$hint"
}

# Sets `part` to the one that failed, and `evidence`. The proof is that of `prove`, except for
# the file capability, in a shell in the namespace: it says each part as it begins it, and its mount ends with it. Its
# script has no blank line and no comment, which a pod's copy would lack.
prove_without_root() {
	begin write
	if [ -e "$probe" ]; then
		remove_probe
		[ ! -e "$probe" ] || return 0
	fi
	evidence=$(mkdir -- "$probe" 2>&1) && mkdir -p -- "$probe/lower/dir" "$probe/upper" "$probe/work" "$probe/merged" ||
		return 0
	for file in kept removed renamed dir/hidden; do
		printf 'old\n' >"$probe/lower/$file" || return 0
	done
	begin ''
	part=namespace
	# shellcheck disable=SC2016 # the inner shell's variables
	evidence=$(unshare -U -r -m sh -c '
		set -e
		cd "$1"
		echo = mount
		mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work kata-dind merged
		echo = copy-up
		echo new >>merged/kept
		{ read -r old; read -r new; } <merged/kept
		read -r lower <lower/kept
		[ "$old $new $lower" = "old new old" ]
		echo = whiteout
		rm -r merged/removed merged/dir
		[ -c upper/removed ]
		[ ! -e merged/removed ]
		echo = d_type
		[ "$(echo merged/*)" = "merged/kept merged/renamed" ]
		echo = rename
		mv merged/renamed merged/moved
		[ ! -e merged/renamed ]
		read -r old <merged/moved
		[ "$old" = old ]
		echo = opaque directory
		mkdir merged/dir
		[ ! -e merged/dir/hidden ]
		umount merged
		echo =
		' sh "$probe" 2>&1) || :
	read_parts "$evidence"
}

remove_probe() { # an overlay leaves a directory that not even its owner may look into
	chmod -R u+rwx "$probe" 2>/dev/null || :
	rm -rf -- "$probe" || :
}

read_parts() { # OUTPUT: notes the parts in it, and sets `evidence` to the first of its other lines
	evidence=
	while read -r key word; do
		case $key in
		=)
			[ "$part" != namespace ] || part=''
			begin "$word"
			;;
		?*) evidence=${evidence:-$key $word} ;;
		esac
	done <<-END
		$1
	END
}

# Rootless Docker's network is a program's behind a tun device, and a Kata guest gives a container none.
warn_without_tun() {
	[ -c /dev/net/tun ] ||
		warn 'there is no /dev/net/tun, which the network of rootless Docker needs' \
			'add it to the container as a hostPath volume of the type CharDevice, or make it in an init container'
}

# A user that is not root can mount nothing for others to see, so only what is mounted already can be the data root.
prepare_without_root() {
	case $kind,$filesystem$is_mount_point in
	kept,* | virtiofs,*) ;;
	memory,tmpfs1) # only: memory
		[ -z "${KATA_DIND_SIZE:-}" ] ||
			warn "only root can resize the tmpfs on $path to $size, and the container's user is $user" \
				"give the volume that size (sizeLimit), or run the container as root (runAsUser: 0)"
		;;
	*)
		[ "$kind" != block ] || precious=1
		unfit "only root can prepare the $kind kind, and the container's user is $user" \
			"mount a disk on $path that user $user may write to, and leave KATA_DIND_DATA_ROOT out"
		;;
	esac
}
