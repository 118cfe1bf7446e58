#!/bin/busybox sh
# Says which chain of machinery has run this container. The kernel is asked; what a container cannot see comes from the
# host in KATA_DIND_HELLO_… variables.
set -eu

row() {
	printf '  %-16s %s\n' "$1" "$2"
}

total_seconds() {
	[ -n "${KATA_DIND_HELLO_STARTED:-}" ] || return 0
	awk -v now="$(date +%s.%N)" -v then="$KATA_DIND_HELLO_STARTED" 'BEGIN { printf "%.1f s\n", now - then }'
}

printf 'Hello from a container in a Docker daemon in a virtual machine.\n\n'
row 'guest kernel' "$(uname -r)"
row 'accelerator' "${KATA_DIND_HELLO_ACCELERATOR:-unknown}"
row 'data root' "${KATA_DIND_HELLO_DATA_ROOT:-unknown}"
row 'storage' "${KATA_DIND_HELLO_STORAGE:-unknown}"
row 'docker' "${KATA_DIND_HELLO_DOCKER:-unknown}"
row 'booted after' "${KATA_DIND_HELLO_BOOT_SECONDS:-?} s"
row 'docker ready' "${KATA_DIND_HELLO_DOCKER_SECONDS:-?} s"
row 'total' "$(total_seconds)"
