# --- tune: what dockerd would otherwise stumble on

tune() {
	local parameter file
	# With these on, Docker reports `Native Overlay Diff: false` and compares layers file by file.
	for parameter in redirect_dir metacopy; do
		file=/sys/module/overlay/parameters/$parameter
		[ ! -w "$file" ] || { printf N >"$file"; } 2>/dev/null || :
	done
	nest_cgroups
	# The runtime of each container, and most programs in containers, watch files; each container has a keyring.
	raise /proc/sys/fs/inotify/max_user_instances 1024
	raise /proc/sys/fs/inotify/max_user_watches 524288
	raise /proc/sys/kernel/keys/root_maxkeys 1000000
	raise /proc/sys/kernel/keys/root_maxbytes 25000000
}

# A cgroup with processes in it can't have children with controllers, so all processes move one level down.
nest_cgroups() {
	local cgroup pid controllers controller tries
	cgroup=/sys/fs/cgroup tries=0
	[ "$user" = 0 ] && [ -e $cgroup/cgroup.subtree_control ] || return 0
	# Some guests mount it read-only, for privileged containers as well.
	[ -d $cgroup/init ] || mkdir $cgroup/init 2>/dev/null ||
		{ mount -o remount,bind,rw $cgroup && mkdir $cgroup/init; } 2>/dev/null || {
		warn tune "$cgroup is read-only, so containers can't be started or get no limits" \
			'make the container privileged'
		return 0
	}
	read -r controllers <$cgroup/cgroup.controllers || controllers= # without any there is no line
	# A process that is started in between, by an exec from outside, makes it busy:
	# https://github.com/moby/moby/commit/c43aa0b6
	while [ $tries -lt 5 ]; do
		tries=$((tries + 1)) pid=
		while read -r pid; do
			printf '%s\n' "$pid" >$cgroup/init/cgroup.procs || :
		done <$cgroup/cgroup.procs
		for controller in $controllers; do
			{ printf '+%s\n' "$controller" >$cgroup/cgroup.subtree_control; } 2>/dev/null || pid=busy
		done
		[ -n "$pid" ] || break
	done
	watch_for_forced_stop
}

raise() { # FILE LEAST
	local now
	[ -w "$1" ] || return 0
	now=$2
	read -r now <"$1" || :
	[ "$now" -ge "$2" ] || { printf '%s\n' "$2" >"$1"; } 2>/dev/null || :
}
