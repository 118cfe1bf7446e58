# --- settle: the first kind that can be prepared and proven

settle() {
	asked=$kind driver='' direct_io=null proof='' reason='' failed_step=choose
	reason_hint='give the container a volume there'
	for kind in $kinds; do
		reason=
		prepare
		[ -n "$reason" ] || verify
		if [ -z "$reason" ]; then
			speak info choose "the data root's kind is $kind"
			return 0
		fi
		because "$kind" "$reason"
		if [ -n "$precious" ]; then
			settle_for_less
			return 0
		fi
		undo
	done
	fall_back
}

# No other kind may take the place of a precious one: it is used without its proof, or not at all.
settle_for_less() {
	local free full
	[ -n "$mounted" ] || refuse "$reason" "$reason_hint"
	free=$(stat -f -c '%a %d' "$path") || free='1000 1000'
	full=
	[ "${free% *}" -gt 64 ] && [ "${free#* }" -gt 64 ] || full=1 # blocks and files, of which the proof needs a few
	if [ "$proof$full" = '"write":"failed"1' ]; then
		speak warning verify "$path is full, so it was not proven again" 'free space in it: docker system prune'
	elif [ "$fallback" = none ]; then
		refuse "$reason" "$reason_hint"
	else
		fall_back_to "$reason"
	fi
}

undo() {
	[ "$kind" != block ] || exec 9<&- # which is on the mount
	[ -z "$mounted" ] || umount "$path"
	[ -z "$made" ] || rm -f -- "$image"
	[ "$kind" != loop ] || exec 8<&- 9<&-
	direct_io=null device=${KATA_DIND_DEVICE:-}
	filesystem_of "$path"
}

fall_back() {
	local message
	message=$reason
	[ "$asked" != auto ] || { message=$reasons_text && failed_step=choose; }
	[ "$fallback" != none ] || refuse "$message" "$reason_hint"
	kind=kept
	fall_back_to "$message"
}

fall_back_to() { # MESSAGE
	if [ "$fallback" = fuse-overlayfs ]; then
		command -v fuse-overlayfs >/dev/null || refuse "$1; and fuse-overlayfs is not in the image" "$reason_hint"
		[ -c /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229 || refuse "$1; and there is no /dev/fuse" "$reason_hint"
	fi
	speak warning verify "$1; continuing with $fallback, as KATA_DIND_FALLBACK says" "$reason_hint"
	driver=$fallback
	[ "$driver$containerd_store" != vfs1 ] || driver=native
}

refuse() { # MESSAGE HINT
	report "$1"
	stop "$failed_step" "$1" "$2"
}
