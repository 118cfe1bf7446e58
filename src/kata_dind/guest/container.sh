#!/bin/sh
# Process 1 of the dind container until its entrypoint takes over: builds the container's root as Kata's agent would.
# Runs in the guest OS, in mount, pid, uts, ipc and cgroup namespaces of its own, and execs the guest entrypoint with the
# command in its arguments. KATA_DIND_{IMAGE_DISK,LAYER_DISK,RUN,SHARES} come from our agent, the rest is for dockerd.
set -eu

base=/run/kata-dind
root=$base/root

mount_root() {
	mkdir -p "$base/image" "$base/layer" "$root"
	mount -o ro "$KATA_DIND_IMAGE_DISK" "$base/image"
	mount -o noatime "$KATA_DIND_LAYER_DISK" "$base/layer"
	mkdir -p "$base/layer/upper" "$base/layer/work"
	mount -t overlay -o "lowerdir=$base/image,upperdir=$base/layer/upper,workdir=$base/layer/work" container "$root"
	mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/var" "$root/etc" "$root/tmp"
}

# A container's /dev under Kata: a few nodes, and no loop devices, /dev/fuse or /dev/kmsg even when it is privileged
# (https://github.com/kata-containers/kata-containers/issues/8118), plus the block device that is given to it.
mount_dev() {
	mount -t tmpfs -o mode=0755,nosuid dev "$root/dev"
	mknod -m 0666 "$root/dev/null" c 1 3
	mknod -m 0666 "$root/dev/zero" c 1 5
	mknod -m 0666 "$root/dev/full" c 1 7
	mknod -m 0666 "$root/dev/random" c 1 8
	mknod -m 0666 "$root/dev/urandom" c 1 9
	mknod -m 0666 "$root/dev/tty" c 5 0
	mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	ln -s /proc/self/fd/0 "$root/dev/stdin"
	ln -s /proc/self/fd/1 "$root/dev/stdout"
	ln -s /proc/self/fd/2 "$root/dev/stderr"
	mount --bind /dev/pts "$root/dev/pts"
	mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
	mount -t mqueue mqueue "$root/dev/mqueue"
	if [ -n "${KATA_DIND_DEVICE:-}" ]; then
		cp -a "$KATA_DIND_DEVICE" "$root/dev/"
	fi
}

mount_kernel_views() {
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	mount --bind "$KATA_DIND_RUN" "$root/run"
	# An image whose /var/run is a real directory would put the Docker socket where we do not look for it.
	[ -L "$root/var/run" ] || { mkdir -p "$root/var/run" && mount --bind "$KATA_DIND_RUN" "$root/var/run"; }
}

write_names() {
	for name in hosts hostname resolv.conf; do
		rm -f "$root/etc/$name"
		cp "/run/$name" "$root/etc/$name"
	done
	hostname "$(cat /run/hostname)" 2>/dev/null || cat /run/hostname >/proc/sys/kernel/hostname
}

# One share per line: the name below the sandbox's shared directory, a space, the path in the container. What is read-only
# is so on the host already. Source and tag are Kata's.
mount_shares() {
	[ -n "$KATA_DIND_SHARES" ] || return 0
	shared=/run/kata-containers/shared/containers
	mkdir -p "$shared"
	mount -t virtiofs kataShared "$shared"
	printf '%s\n' "$KATA_DIND_SHARES" | while read -r name path; do
		if [ -d "$shared/$name" ]; then
			mkdir -p "$root$path"
		else
			mkdir -p "$root${path%/*}"
			: >>"$root$path"
		fi
		mount --bind "$shared/$name" "$root$path"
	done
}

enter_root() {
	mkdir -p "$KATA_DIND_RUN/kata-dind" "$root/.guest"
	cp /usr/lib/kata-dind/entrypoint.sh "$KATA_DIND_RUN/kata-dind/entrypoint.sh"
	cd "$root"
	pivot_root . .guest
	cd /
	umount -l /.guest
	rmdir /.guest 2>/dev/null || :
}

mount_root
mount_dev
mount_kernel_views
write_names
mount_shares
enter_root
unset KATA_DIND_IMAGE_DISK KATA_DIND_LAYER_DISK KATA_DIND_RUN KATA_DIND_SHARES
exec /bin/sh /run/kata-dind/entrypoint.sh -- "$@"
