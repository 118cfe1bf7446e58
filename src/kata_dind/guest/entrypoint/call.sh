# --- prepare, verify: a system call for which the image has no program

# The official images are Alpine's: nothing in them switches direct I/O on, sets an extended attribute or lets an xfs
# grow. This writes, runs and removes a program of 216 bytes, whose source is call.s.
#
# FILE PLACE CALL ARGUMENTS [GROWTH]: makes the call `ioctl` or `fsetxattr` on the file. Its arguments are a zero and
# eight bytes in base64, the growth 16 bytes, as `printf %b` takes them. The program lies in PLACE, or elsewhere if
# nothing can be run from there. Sets `called` to 0 or to the number of the error, and empties it when no program could
# be run.
system_call() {
	local place x86 arm call written
	called='' x86=EAAA arm=HQAA
	[ "$3" = ioctl ] || x86=vgAA arm=BwAA
	call=$4FAAAAHNlY3VyaXR5LmNhcGFiaWxpdHkAAQAAAgAgAAAAAAAAAAAAAAAAAAAAAAAA
	x86=$x86${call}u3gAQAAx/4sDi3MEi1MIRItTDEUxwA8F99iJx2o8WA8FAAAA
	arm=$arm${call}Kf7/EAAAgNIoBUApIg1BKQQAgNIBAADU4AMAS6gLgFIBAADU
	for place in "$2" "$status_dir/call" /dev/kata-dind-call; do
		[ ! -e "$place" ] && [ ! -h "$place" ] || rm -rf -- "$place" || continue
		set -C # a link that somebody puts there now is not followed
		write_program "$place" "$x86" "$arm" "${5:-}"
		set +C
		if [ -n "$written" ]; then
			called=0
			{ "$place" <"$1"; } 2>/dev/null || called=$?
		fi
		rm -f -- "$place" || :
		[ "${called:-126}" -ge 126 ] || return 0 # 126 says that the place is mounted noexec
		called=''
	done
}
