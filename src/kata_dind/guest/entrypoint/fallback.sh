# --- settle: no kind works, and the user may have said what to do then

fall_back() { # because of a reason
	case $fallback in
	none) refuse ;;
	fuse*)
		command -v fuse-overlayfs >/dev/null || refuse '; and fuse-overlayfs is not in the image'
		[ -c /dev/fuse ] || refuse '; and there is no /dev/fuse'
		;;
	esac
	step=verify # only: auto
	warn "$reason; continuing with $fallback, as KATA_DIND_FALLBACK says" "$reason_hint"
	[ -n "$precious" ] || kind=kept
	storage_driver=$fallback named_driver=''
	[ "$fallback$overlay" != vfsoverlayfs ] || storage_driver=native
	export "DOCKER_DRIVER=$storage_driver" # only: no-other-programs
	[ "$program" != dockerd ] || export "DOCKER_DRIVER=$storage_driver" # only: other-programs
}
