# --- settle: the first kind that can be prepared and proven

settle() {
	asked=$kind failed_step=choose reason_hint='give the container a volume there' # only: auto
	for kind in $kinds; do
		reason=''
		prepare
		[ -n "$reason" ] || verify
		[ -z "$reason" ] || because "$kind" "$reason" # only: auto
		[ -n "$reason" ] || return 0
		# No other kind may take the place of a precious one: it is used without its proof, or not at all.
		[ "$precious,$mounted" != 1, ] || refuse # only: disk
		[ -z "$precious" ] || break # only: disk
		undo
	done
	# only: auto
	[ "$asked$precious" != auto ] || failed_step=choose reason=$reasons_text
	fall_back # only: fallback
	refuse # only: no-fallback
}

undo() {
	[ -z "$mounted" ] || umount "$path"
	each_below drop_mount # only: below
	below='' # only: below
	[ -z "$made" ] || rm -f "$made" || : # only: loop
	[ "$kind" != loop ] || exec 8<&- 9<&- # only: auto
	direct_io=null device=${KATA_DIND_DEVICE:-} # only: auto
	filesystem_of "$path" # only: auto
}

refuse() { # [FURTHER-REASON]
	step=$failed_step # only: auto
	stop "$reason${1:-}" "$reason_hint"
}
