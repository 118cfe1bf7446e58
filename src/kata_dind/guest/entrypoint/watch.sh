# --- tune: a forced stop must reach processes that have moved one cgroup down

# Kata's agent kills only what stands in the container's own cgroup, and that cgroup may hold no process once its
# children have controllers. A program of 12 KiB, whose source is watch.s, takes notice of the agent's attempt and kills
# the rest. It ends with the command, and holds nothing open.
watch_for_stop() { # in /sys/fs/cgroup
	[ -e cgroup.freeze ] || return 0 # the root of all cgroups can't be frozen
	ours='' # whether process 1 is the container's, and not a pod's
	! cmp -s /proc/self/cgroup /proc/1/cgroup || ours=1
	run_program watch /dev/null 'XVi/EYAAAGo4WA8FhcAPhegAAAAx/4PO/2a4tAEPBWoBX2oJXrCdDwWw/Q8FsHAPBcHnGbgQAQAADwUx/16yKeh6AAAAXrIQ6HIAAABe6
GwAAABqAVhIweAgUID7A3RrMdtIiedqAV6Dyv+F23QFuvQBAABqB1gPBYXAdN4x/0iNdCSQanBaMcAPBUyNBAatka1Ig8YI/8l0CYD7AXUZ/8PrFagIdQioA
XQNMdvrCYD7ArMBdQKzA0w5xnLS66O4/gAAAA8FhcB4MsOD/QV0Fb8GQgAAagFeMdJBugAAEABqZVgPBV9fagFeagJYDwWXajFUXmoBWmoBWA8FMf9qPFgPB
Q==' \
		'8wdB+CACkNKIG4BSAQAA1KAKALUBAICSiDaAUgEAANQgAIDSIQGA0ugUgFIBAADUqBOAUgEAANQAQKDSKAyAUgEAANQAAIDSSAOAUgEAA
NThU0CpIgWA0iwAAJThAxSqAgKA0ikAAJThU0GpJwAAlCAAwNLgAwD5vw4AcQAFAFQVAIBSAgCA0pUAADSjuaNS/w8BqeJDAJHgAwCRIQCA0gMAgNIoCYBSA
QAA1GD+/zQAAIDS4cMB0QIOgNLoB4BSAQAA1CAAAIsiDMIoXwQAcYAAAFS/BgBxtRaVGggAABSDABg3wwAANhUAgFIEAAAUYgCAUr8KAHFVBJ8aPwAA60P+/
1Tg//8XAACA0mgDgFIBAADUgAL4N8ADX9Z/FgDx4AAAVMBAiNIhAIDSAgCA0gMCoNKoDoBSAQAA1GAMgJLhAxSqIgCA0ggHgFIBAADUIwaAUuMDALnhAwCRC
AiAUgEAANQAAIDSqAuAUgEAANQ=' cgroup.freeze cgroup.procs cgroup.threads cgroup.kill $ours
	[ "$called" = 0 ] || warn 'in a Kata guest a forced stop (SIGKILL) will not end this container' \
		'give it a long grace period, and the image base64'
}
