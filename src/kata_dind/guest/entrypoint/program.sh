# --- parse: which program is started

find_program() { # COMMAND...: sets `program` to KATA_DIND_PROGRAM, or else to what the command starts
	local word
	program=${KATA_DIND_PROGRAM:-}
	one_of PROGRAM "${program:-@PROGRAM@}" dockerd buildkitd containerd dagger earthly
	[ -z "$program" ] || return 0
	program=@PROGRAM@
	for word in "$@"; do
		case $word in -*) continue ;; esac # whose value may look like a program
		case ${word##*/} in
		dockerd | dockerd-*) program=dockerd ;;
		containerd) program=containerd ;;
		dagger-engine | dagger-entrypoint.sh) program=dagger ;;
		buildkitd | buildkitd-entrypoint | buildctl-daemonless.sh)
			program=buildkitd
			# Earthly's image starts a buildkitd of its own, and sets this: buildkitd/Earthfile in earthly/earthly
			[ -z "${EARTHLY_TMP_DIR:-}" ] || program=earthly
			;;
		*) continue ;;
		esac
		return 0
	done
}
