# --- tune: a forced stop must reach processes that have moved one cgroup down

# Kata's agent kills only what stands in the container's own cgroup, and that cgroup may hold no process once its
# children have controllers. A program of 12 KiB, whose source is watch.s, takes notice of the agent's attempt and kills
# the rest. It ends with the command, holds nothing open, and removes its own file.
watch_for_forced_stop() { # in /sys/fs/cgroup
	local names x86 arm ours here line place written filesystem mount_point mount_numbers mount_flags is_mount_point
	[ -e /sys/fs/cgroup/cgroup.freeze ] || return 0 # the root of all cgroups can't be frozen
	names=Y2dyb3VwLmZyZWV6ZQBjZ3JvdXAucHJvY3MAY2dyb3VwLnRocmVhZHMAY2dyb3VwLmtpbGwAMQAAwusL
	x86=$names'SIssJEiLfCQIaldYDwVIgewABAAAagFfagleaJ0AAABYDwVqcFgPBTH/g87/MdJotAEAAFgPBWgmAQAAWA8FQYnEvngAQACyKejBAA'
	x86=$x86'AAvoYAQACyEOi1AAAAvpMAQADoqwAAAEUx7UGD/QMPhK4AAABFMe1IiedEiSdqAV6JdwSDyv9Fhe10ELrQBwAAQYP9A3UFus'
	x86=$x86'gAAABqB1gPBYXAdMZ/CoP4/HTM6aoAAABEiedIiea6AAQAADHADwWFwA+OkwAAAEiJ40yNPAOLA4tLBEiDwxD/yHQRQYP9A3'
	x86=$x86'RBRYXtdCJqAkFd6xz2wQh1CvbBAXQSRTHt6w1Bg/0CagFBXXUDQbUDTDn7csHpZf///0SJ52j+AAAAWA8FhcB4OcP/zXQVvw'
	x86=$x86'ZCAABqAV4x0kG6AAAQAGplWA8FapxfvqIAQABqAVpoAQEAAFgPBYnHvq4AQABqAVgPBTH/ajxYDwU='
	arm=$names'8wNA+WAMgJLhB0D5AgCA0mgEgFIBAADU/wMQ0SAAgNIhAYDS6BSAUgEAANSoE4BSAQAA1AAAgNIBAICSAgCA0og2gFIBAADUAACA0k'
	arm=$arm'gDgFIBAADU9AMAKmH7/xAiBYDSOwAAlGH7/1ACAoDSOAAAlGH7/3A2AACUFQCAUr8OAHEABwBUFQCAUuADFCohAIBS4AcAKQ'
	arm=$arm'IAgNIVAQA04kMAkUMAgNJDfACpvw4AcWEAAFRj+v8YXwwAqeADAJEhAIDSAwCA0igJgFIBAADUgP3/NB8QADGg/f9UYAb4N+'
	arm=$arm'ADFCrhAwCRAoCA0ugHgFIBAADUHwAAcY0FAFT3AwCR+EIgi+AGwigfBABxwAAAVL8OAHGAAgBUdQEANFUAgFIJAAAUgQAYN+'
	arm=$arm'EAADYVAIBSBQAAFL8KAHE1AIBSQQAAVHUAgFL/Ahjr6/3/VND//xfgAxQqaAOAUgEAANRgAvg3wANf1n8GAPHtAABUwECI0i'
	arm=$arm'EAgNICAIDSAwKg0qgOgFIBAADUYAyAkkHz/1AiAIDSCAeAUgEAANQh8/9QIgCA0ggIgFIBAADUAACA0qgLgFIBAADU'
	ours='' here='' # whether process 1 is the container's, and not a pod's
	while read -r line; do
		case $line in 0::*) here=$line ;; esac
	done </proc/self/cgroup
	while read -r line; do
		[ "$line" != "$here" ] || ours=1
	done </proc/1/cgroup || :
	for place in "$status_dir" /dev; do
		filesystem_of "$place"
		case ,$mount_flags, in *,noexec,*) continue ;; esac
		place=$place/kata-dind-watch
		write_program "$place" "$x86" "$arm"
		[ -n "$written" ] || continue
		{ cd /sys/fs/cgroup && exec "$place" $ours; } </dev/null >/dev/null 2>&1 9<&- &
		return 0
	done
	warn tune 'in a Kata guest, a forced stop (SIGKILL) will not end this container' \
		'stop it with a grace period that is long enough for dockerd; if the image has no base64, add it'
}
