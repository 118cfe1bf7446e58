# --- preflight: what dockerd or a container would stumble on later, mended or said

preflight() {
	step=preflight
	raise_open_files
	[ "$user" = 0 ] || return 0 # only: rootless
	see_privileges
	make_nodes
}

# Sets `user_namespace` if root is not the guest's root. The numbers of capabilities are those of capability.h: 21 is
# CAP_SYS_ADMIN, 24 CAP_SYS_RESOURCE.
see_privileges() {
	while read -r key value _; do
		[ "$key" != CapEff: ] || break
	done </proc/self/status
	# shellcheck disable=SC2154 # take sets it
	[ $((0x$value >> 21 & 1)) = 1 ] || [ "$fallback" != none ] || stop \
		'the container is not privileged, or not root' 'docker run --privileged; in a pod securityContext.privileged: true'
	# runc gives containers 0, as Docker tells it, and to lower the value takes the capability.
	[ $((0x$value >> 24 & 1)) = 1 ] || ! read -r value </proc/self/oom_score_adj || [ "$value" -le 0 ] ||
		warn "without CAP_SYS_RESOURCE and with oom_score_adj $value docker run says: can't get final child's PID from pipe" \
			"$privileged; if it is, give containerd the capability"
	read -r _ _ value </proc/self/uid_map && [ "$value" != 4294967295 ] || return 0
	user_namespace=1 # only: memory-or-share
	case $kind$device in memory* | virtiofs* | auto) return 0 ;; esac # only: memory-or-share
	stop 'root of a user namespace cannot mount a disk' 'set hostUsers: true, or use memory' # only: disk
}

# A privileged Kata container has none of these: https://github.com/kata-containers/kata-containers/issues/8118
make_nodes() {
	missing=''
	for node in '0666 /dev/fuse c 10 229' '0644 /dev/kmsg c 1 11' '0600 /dev/loop-control c 10 237' 0 1 2 3 4 5 6 7; do
		case $node in ?) node="0600 /dev/loop$node b 7 $node" ;; esac
		# shellcheck disable=SC2086 # the words of a node
		set -- $node
		[ -e "$2" ] || mknod -m "$@" 2>/dev/null || missing="$missing $2"
	done
	[ -z "$missing" ] || info "cannot make$missing" "$privileged"
}

# Containers inherit the limit, until Docker 28 as the hard one as well, so it is not raised beyond all measure:
# programs that close every possible descriptor would take minutes.
raise_open_files() {
	ulimit -S -n 1048576 2>/dev/null && return 0
	hard=$(ulimit -H -n)
	ulimit -S -n "$hard"
	# A low one is a kernel's own, which takes a capability to raise; a runtime's is higher, and is kept.
	[ "$hard" -gt 4096 ] || ulimit -n 1048576 2>/dev/null ||
		warn "only $hard files may be open at a time" 'raise the hard limit: LimitNOFILE= of containerd'
}
