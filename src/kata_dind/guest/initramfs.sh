#!/bin/busybox sh
# /init of the guest: finds the guest OS's disk and hands over to the agent on it. Runs in busybox ash only.
# With kata_dind.probe on the kernel's command line it only says that it has booted, which is all a test of KVM needs.
set -eu

export PATH=/bin
/bin/busybox --install -s /bin

# Without this a failure would end process 1, and all the console would show is a kernel panic.
fail() {
	printf 'kata-dind: initramfs: %s\n' "$1" >/dev/console
	sleep 1
	poweroff -f
}

mount_basics() {
	mkdir -p /proc /sys /dev /run /sysroot
	mount -t devtmpfs dev /dev
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t tmpfs -o mode=0755 run /run
}

load_boot_modules() {
	list=/lib/modules/$(uname -r)/boot-modules
	[ -f "$list" ] || return 0
	while read -r module; do
		insmod "$module" || fail "cannot load $module"
	done <"$list"
}

# A disk is named by its serial number, never by its place on the bus. Prints nothing when there is none.
find_disk() {
	for file in /sys/block/*/serial; do
		[ -f "$file" ] || continue
		read -r serial <"$file" || : # there is no newline at its end
		if [ "$serial" = "$1" ]; then
			file=${file%/serial}
			printf '/dev/%s\n' "${file##*/}"
		fi
	done
}

mount_guest_os() {
	disk=$(find_disk guest-os)
	[ -n "$disk" ] || fail 'no disk has the serial number guest-os'
	mount -o ro "$disk" /sysroot || fail "cannot mount $disk"
	disk=$(find_disk modules)
	[ -z "$disk" ] || mount -o ro "$disk" /sysroot/lib/modules || fail "cannot mount $disk"
}

mount_for_the_agent() {
	mount --move /dev /sysroot/dev
	mount --move /proc /sysroot/proc
	mount --move /sys /sysroot/sys
	mount --move /run /sysroot/run
	mount -t tmpfs -o mode=1777 tmp /sysroot/tmp
	mkdir -p /sysroot/dev/pts /sysroot/dev/shm
	mount -t devpts -o mode=0620,gid=5,ptmxmode=0666 devpts /sysroot/dev/pts
	mount -t tmpfs -o mode=1777 shm /sysroot/dev/shm
	mount -t cgroup2 -o nsdelegate cgroup2 /sysroot/sys/fs/cgroup
	# Every controller, so that dockerd can limit its containers: the root cgroup alone may do it with processes in it.
	read -r controllers </sysroot/sys/fs/cgroup/cgroup.controllers
	for controller in $controllers; do
		printf '+%s\n' "$controller" >/sysroot/sys/fs/cgroup/cgroup.subtree_control || :
	done
}

mount_basics
case " $(cat /proc/cmdline) " in
*' kata_dind.probe '*)
	printf 'kata-dind: booted\n' >/dev/console
	poweroff -f
	;;
esac
load_boot_modules
mount_guest_os
mount_for_the_agent
exec switch_root /sysroot /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/usr/lib/kata-dind \
	PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8 /usr/bin/python3 -s -S -m agent
