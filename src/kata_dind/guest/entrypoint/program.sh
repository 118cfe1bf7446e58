# --- parse: which program is started

find_program() { # COMMAND...: sets `program` to KATA_DIND_PROGRAM, or else to what the command starts
	take PROGRAM program '' '' dockerd buildkitd containerd dagger earthly
	[ -z "$program" ] || return 0
	program=dockerd
	for word in "$@"; do
		case /$word in
		/-*) continue ;; # whose value may look like a program
		@DOCKERD_WORDS@) program=dockerd ;;
		@CONTAINERD_WORDS@) program=containerd ;;
		@DAGGER_WORDS@) program=dagger ;;
		@BUILDKITD_WORDS@)
			program=buildkitd
			# Earthly's image starts a buildkitd of its own, and sets this: buildkitd/Earthfile in earthly/earthly
			[ -z "${EARTHLY_TMP_DIR:-}" ] || program=earthly
			;;
		*) continue ;;
		esac
		return 0
	done
}
