# --- parse: which program is started, in a copy for one

find_program() { # COMMAND...: refuses a command that starts another program than the copy's
	take PROGRAM program --program @PROGRAM@
	[ -z "${KATA_DIND_PROGRAM:-}" ] || return 0
	for word in "$@"; do
		case /$word in
		/-*) ;; # whose value may look like a program
		@OWN_WORDS@) return 0 ;;
		@OTHER_WORDS@)
			bad_input "the command starts ${word##*/}, but this file serves @PROGRAM@" \
				'use: kata-dind entrypoint --program NAME, or set KATA_DIND_PROGRAM=@PROGRAM@'
			;;
		esac
	done
}
