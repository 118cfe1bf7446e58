#!/bin/sh
# What the entrypoint of the official dind-rootless images does with the command `dockerd`, as a user:
# https://github.com/docker-library/docker/blob/master/dockerd-entrypoint.sh
set -eu
left=$#
while [ "$left" -gt 0 ]; do
	case $1 in
	--host=*) set -- "$@" "--host=unix://$XDG_RUNTIME_DIR/docker.sock" ;; # beside it, root's own is out of reach
	*) set -- "$@" "$1" ;;
	esac
	shift
	left=$((left - 1))
done
exec rootlesskit --net=slirp4netns --mtu=1500 --disable-host-loopback --port-driver=builtin --copy-up=/etc \
	--copy-up=/run "$@"
