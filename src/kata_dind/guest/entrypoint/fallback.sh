# --- settle: no kind works, and the user has said what to do then

fall_back_to() { # MESSAGE
	if [ "$fallback" = fuse-overlayfs ]; then
		command -v fuse-overlayfs >/dev/null || refuse "$1; and fuse-overlayfs is not in the image" "$reason_hint"
		[ -c /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229 || refuse "$1; and there is no /dev/fuse" "$reason_hint"
	fi
	warn verify "$1; continuing with $fallback, as KATA_DIND_FALLBACK says" "$reason_hint"
	driver=$fallback
	[ "$driver$containerd_store" != vfs1 ] || driver=native
}
