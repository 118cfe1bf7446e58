# --- tune: a forced stop must reach processes that have moved one cgroup down

# Kata's agent kills only what stands in the container's own cgroup, and that cgroup may hold no process once its
# children have controllers. A program of 12 KiB, whose source is watch.s, takes notice of the agent's attempt and kills
# the rest. It ends with the command, and holds nothing open.
watch_for_stop() { # in /sys/fs/cgroup
	[ -e cgroup.freeze ] || return 0 # the root of all cgroups can't be frozen
	ours='' # whether process 1 is the container's, and not a pod's
	! cmp -s /proc/self/cgroup /proc/1/cgroup || ours=1
	run_program watch /dev/null 'XVi/EYAAAGo4WA8FhcAPhd4AAAAx/4PO/2a4tAEPBWoBX2oJXrCdDwWw/Q8FsHAPBTH/XrIp6HoAAABeshDocgAAAF7obAAAAGoBWEjB4
CBQgPsDdGsx20iJ52oBXoPK/4XbdAW69AEAAGoHWA8FhcB03jH/SI10JJBqcFoxwA8FTI0EBq2RrUiDxgj/yXQJgPsBdRn/w+sVqAh1CKgBdA0x2+sJgPsCs
wF1ArMDTDnGctLro7j+AAAADwWFwHgyw4P9BXQVvwZCAABqAV4x0kG6AAAQAGplWA8FX19qAV5qAlgPBZdqMVReagFaagFYDwUx/2o8WA8F' \
		'8wdB+CACkNKIG4BSAQAA1EAKALUBAICSiDaAUgEAANQgAIDSIQGA0ugUgFIBAADUqBOAUgEAANQAAIDSSAOAUgEAANThU0CpIgWA0iwAA
JThAxSqAgKA0ikAAJThU0GpJwAAlCAAwNLgAwD5vw4AcQAFAFQVAIBSAgCA0pUAADSjuaNS/w8BqeJDAJHgAwCRIQCA0gMAgNIoCYBSAQAA1GD+/zQAAIDS4
cMB0QIOgNLoB4BSAQAA1CAAAIsiDMIoXwQAcYAAAFS/BgBxtRaVGggAABSDABg3wwAANhUAgFIEAAAUYgCAUr8KAHFVBJ8aPwAA60P+/1Tg//8XAACA0mgDg
FIBAADUgAL4N8ADX9Z/FgDx4AAAVMBAiNIhAIDSAgCA0gMCoNKoDoBSAQAA1GAMgJLhAxSqIgCA0ggHgFIBAADUIwaAUuMDALnhAwCRCAiAUgEAANQAAIDSq
AuAUgEAANQ=' cgroup.freeze cgroup.procs cgroup.threads cgroup.kill $ours
	[ "$called" = 0 ] || warn 'in a Kata guest a forced stop (SIGKILL) will not end this container' \
		'give it a long grace period, and the image base64'
}
