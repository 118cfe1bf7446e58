# --- prepare, verify: a system call for which the image has no program

# The official images are Alpine's: nothing in them switches direct I/O on, sets an extended attribute or lets an xfs
# grow. This runs a program of 195 bytes, whose source is call.s.
#
# FILE X86_64 AARCH64 ARGUMENTS [GROWTH]: makes a call with the file as its first argument. The number of the call, which
# the machines differ in, is three of its four bytes in base64, the last one and eight bytes of arguments follow; the
# growth is 16 bytes. Sets `called` to 0 or to the number of the error, and empties it when
# no program could be run.
system_call() {
	call=${4}FAAAAHNlY3VyaXR5LmNhcGFiaWxpdHkAAQAAAgAgAAAA${5:-}
	run_program call "$1" "u5YAQACLA4tzBItTCESLUwwPBffYl2o8WA8FAAAA$2$call" \
		"6QAAUCgFQCkiDUEpAQAA1OADAEuoC4BSAQAA1AAA$3$call"
}
