# --- preflight: what dockerd or a container would stumble on later, mended or said

preflight() {
	raise_open_files
	[ "$user" = 0 ] || return 0 # only: rootless
	require_privileges
	make_device_nodes
	name_cgroup_hierarchy
}

# Sets `user_namespace` if root is not the guest's root. The numbers of capabilities are those of capability.h: 21 is
# CAP_SYS_ADMIN, 24 CAP_SYS_RESOURCE.
require_privileges() {
	local value level
	user_namespace=
	read -r _ _ value </proc/self/uid_map || value=4294967295
	[ "$value" = 4294967295 ] || user_namespace=1
	if [ $((capabilities >> 21 & 1)) = 0 ] && [ "$fallback" = none ]; then
		stop preflight 'the container is not privileged, and without CAP_SYS_ADMIN neither it nor dockerd can mount' \
			'make it privileged: docker run --privileged, or securityContext.privileged: true in a pod'
	fi
	if [ $((capabilities >> 24 & 1)) = 0 ]; then
		# runc gives containers 0, as Docker tells it, and to lower the value takes the capability.
		level=info
		read -r value </proc/self/oom_score_adj || value=0
		[ "$value" -le 0 ] || level=warning
		speak $level preflight "CAP_SYS_RESOURCE is missing; where oom_score_adj is above 0 (here it is $value)\
 docker run fails with: can't get final child's PID from pipe" 'make the container privileged, or add SYS_RESOURCE'
	fi
	case $user_namespace,$kind,$device in # only: disk
	1,loop,* | 1,block,* | 1,auto,?*)
		stop preflight 'root of a user namespace cannot mount a disk' \
			'set hostUsers: true in the pod, or use a volume with a file system or KATA_DIND_DATA_ROOT=memory'
		;;
	esac
}

# A privileged Kata container has none of these: https://github.com/kata-containers/kata-containers/issues/8118
make_device_nodes() {
	local made missing number
	made='' missing='' number=0
	set -- fuse 0666 c 10 229 kmsg 0644 c 1 11 loop-control 0600 c 10 237
	while [ $number -lt 8 ]; do
		set -- "$@" loop$number 0600 b 7 $number
		number=$((number + 1))
	done
	while [ $# -gt 0 ]; do
		if [ -e "/dev/$1" ]; then
			:
		elif [ -z "$missing" ] && mknod -m "$2" "/dev/$1" "$3" "$4" "$5" 2>/dev/null; then
			made="$made /dev/$1"
		else
			missing="$missing /dev/$1"
		fi
		shift 5
	done
	[ -z "$made" ] || info preflight "made$made"
	[ -z "$missing" ] || info preflight "cannot make$missing" 'if they are needed, make the container privileged'
}

# Containers inherit the limit, until Docker 28 as the hard one as well, so it is not raised beyond all measure:
# programs that close every possible descriptor would take minutes.
raise_open_files() {
	local word next last soft hard most
	most=1048576 soft=$most
	while read -r word next last soft hard _; do
		[ "$word $next $last" != 'Max open files' ] || break
	done </proc/self/limits
	case $hard in *[!0-9]*) hard=$most ;; esac
	case $soft in *[!0-9]*) soft=$most ;; esac
	[ "$hard" -le $most ] || hard=$most
	# A kernel's own limit, which root with CAP_SYS_RESOURCE may raise; a runtime's is higher, and is kept.
	if [ "$hard" -le 4096 ] && ulimit -n $most 2>/dev/null; then
		hard=$most
	elif [ "$soft" -lt "$hard" ]; then
		ulimit -S -n "$hard"
	fi
	[ "$soft" -ge "$hard" ] || info preflight "raised the limit of open files from $soft to $hard"
	[ "$hard" -gt 4096 ] ||
		warn preflight "only $hard files may be open at a time" \
			"raise the container's hard limit, for all of containerd with LimitNOFILE= in its unit"
}

# Docker needs it, and old guests lack it: https://github.com/kata-containers/kata-containers/issues/2014
name_cgroup_hierarchy() {
	[ -e /sys/fs/cgroup/devices/cgroup.procs ] || return 0
	info preflight 'the guest has cgroups of the first version, which Docker will drop' \
		'boot it with systemd.unified_cgroup_hierarchy=1'
	[ ! -e /sys/fs/cgroup/systemd/cgroup.procs ] || return 0
	{
		mkdir -p /sys/fs/cgroup/systemd
		mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
	} 2>/dev/null || warn preflight "the cgroup hierarchy named systemd can't be mounted" \
		'make the container privileged'
}
