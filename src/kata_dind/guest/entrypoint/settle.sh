# --- settle: the first kind that can be prepared and proven

settle() {
	asked=$kind driver='' direct_io=null proof='' reason='' failed_step=choose
	reason_hint='give the container a volume there'
	for kind in $kinds; do
		reason=
		prepare
		[ -n "$reason" ] || verify
		if [ -z "$reason" ]; then
			info choose "the data root's kind is $kind"
			return 0
		fi
		because "$kind" "$reason"
		if [ -n "$precious" ]; then # only: disk
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
		warn verify "$path is full, so it was not proven again" 'free space in it: docker system prune'
	else
		[ "$fallback" != none ] || refuse "$reason" "$reason_hint"
		fall_back_to "$reason" # only: fallback
	fi
}

undo() { # a lock on the mount first
	[ "$kind" != block ] || exec 9<&- # only: block
	[ -z "$mounted" ] || umount "$path"
	[ -z "$made" ] || rm -f -- "$image" # only: loop
	[ "$kind" != loop ] || exec 8<&- 9<&- # only: loop
	direct_io=null device=${KATA_DIND_DEVICE:-}
	filesystem_of "$path"
}

fall_back() { # if that was asked for
	[ "$asked" != auto ] || { reason=$reasons_text && failed_step=choose; } # only: auto
	[ "$fallback" != none ] || refuse "$reason" "$reason_hint"
	kind=kept # only: fallback
	fall_back_to "$reason" # only: fallback
}

refuse() { # MESSAGE HINT
	report "$1"
	stop "$failed_step" "$1" "$2"
}
