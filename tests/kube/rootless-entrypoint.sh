#!/bin/sh
# What the entrypoint of the official dind-rootless images does without TLS:
# https://github.com/docker-library/docker/blob/master/dockerd-entrypoint.sh
# Docker's containers have no network: what gives them one by default needs /dev/net/tun, and a container here gets no
# more devices than Kata's.
set -eu
XDG_RUNTIME_DIR=/run/user/$(id -u)
export XDG_RUNTIME_DIR
mkdir -p "$XDG_RUNTIME_DIR"
[ $# != 0 ] && [ "${1#-}" = "$1" ] || set -- dockerd --host="${DOCKER_HOST:-unix://$XDG_RUNTIME_DIR/docker.sock}" "$@"
[ "$1" != dockerd ] || set -- rootlesskit --net=host --copy-up=/etc --copy-up=/run "$@" --iptables=false --ip-forward=false --bridge=none
exec "$@"
