# --- tune: what dockerd would otherwise stumble on

tune() {
	step=tune
	[ "$user" = 0 ] || return 0 # only: rootless
	# With these on, Docker reports `Native Overlay Diff: false` and compares layers file by file.
	for parameter in redirect_dir metacopy; do
		{ printf N >/sys/module/overlay/parameters/$parameter; } 2>/dev/null || :
	done
	if cd /sys/fs/cgroup 2>/dev/null; then
		nest_cgroups
		# Docker needs it, and old guests lack it: https://github.com/kata-containers/kata-containers/issues/2014
		[ ! -e devices/cgroup.procs ] || [ -e systemd/cgroup.procs ] || { # of the first version
			mkdir -p systemd && mount -t cgroup -o none,name=systemd cgroup systemd
		} 2>/dev/null || warn 'cannot mount the cgroup hierarchy named systemd'
	fi
	# On a share `docker run` makes 600 requests to the host there, and 30 with this. What the directory holds is kept:
	# rmdir fails, and at a mount point, too.
	case ${run_type:-} in virtiofs | fuse*)
		{ rmdir /run/docker; mkdir /run/docker && mount -t tmpfs -o mode=0711 run /run/docker; } 2>/dev/null ||
			info "/run lies on $run_type, where containers start slowly" 'mount a tmpfs (medium: Memory)'
		;;
	esac
	# The runtime of each container, and most programs in containers, watch files. `read` takes one byte after another,
	# and of such a number the kernel gives only the first. (That root has keys enough is Linux's own default since 3.18.)
	# shellcheck disable=SC2046
	{
		cd /proc/sys/fs/inotify && set -- $(cat max_user_instances max_user_watches) && [ $# = 2 ] &&
			{ [ "$1" -ge 1024 ] || echo 1024 >max_user_instances; } &&
			{ [ "$2" -ge 524288 ] || echo 524288 >max_user_watches; }
	} 2>/dev/null || :
}

# A cgroup with processes in it can't have children with controllers, so all processes move one level down.
nest_cgroups() { # in /sys/fs/cgroup
	[ -e cgroup.subtree_control ] || return 0
	# Some guests mount it read-only, for privileged containers as well.
	{ [ -d init ] || mkdir init || { mount -o remount,bind,rw /sys/fs/cgroup && mkdir init; }; } 2>/dev/null || {
		warn "/sys/fs/cgroup is read-only, so that containers can't start"
		return 0
	}
	read -r controllers <cgroup.controllers || : # without any there is no line
	# A process that is started in between, by an exec from outside, makes it busy:
	# https://github.com/moby/moby/commit/c43aa0b6
	for _ in 1 2 3 4 5; do
		while read -r pid; do
			echo "$pid" >init/cgroup.procs || :
		done <cgroup.procs
		pid=''
		for controller in $controllers; do
			{ echo "+$controller" >cgroup.subtree_control; } 2>/dev/null || pid=busy
		done
		[ -n "$pid" ] || break
	done
	watch_for_stop
}
