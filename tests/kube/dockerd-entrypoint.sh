#!/bin/sh
# What the entrypoint of the official dind images does without TLS, and the script `dind` that it calls:
# https://github.com/docker-library/docker/blob/master/dockerd-entrypoint.sh
set -eu
[ $# != 0 ] && [ "${1#-}" = "$1" ] || set -- dockerd --host=unix:///var/run/docker.sock "$@"
if [ "$1" = dockerd ]; then
	rm -f /run/docker.pid
	if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
		mkdir -p /sys/fs/cgroup/init
		until xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null &&
			sed -e 's/ / +/g' -e 's/^/+/' </sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control; do :; done
	fi
fi
exec "$@"
