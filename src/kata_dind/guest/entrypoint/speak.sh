# --- speak: JSON lines on standard error

escape() { # TEXT: sets `escaped` to the inside of a JSON string
	escaped=$1
	case $1 in
	*[\\\"[:cntrl:]]*) escaped=$(printf '%s' "$1" | tr '[:cntrl:]' ' ' | sed 's/[\\"]/\\&/g') ;;
	esac
}

speak() { # LEVEL STEP MESSAGE [HINT]
	local escaped hint_text
	if [ "$1" = info ] && [ "${KATA_DIND_LOG:-info}" = error ]; then
		return 0
	fi
	escape "${4:-}"
	hint_text=$escaped
	escape "$3"
	printf '{"kata_dind":"%s","step":"%s","message":"%s","hint":"%s"}\n' "$1" "$2" "$escaped" "$hint_text" >&2
}

info() { # STEP MESSAGE [HINT]
	speak info "$@"
}

warn() { # STEP MESSAGE HINT
	speak warning "$@"
}

stop() { # STEP MESSAGE HINT: no working data root can be had
	speak error "$@"
	[ -n "${facts:-}" ] || report_failure "$2"
	exit @EXIT_NO_DATA_ROOT@
}

bad_input() { # MESSAGE HINT
	speak error parse "$@"
	exit @EXIT_BAD_INPUT@
}

unfit() { # STEP MESSAGE HINT: this kind is not possible, though another may be; a caller that finds a `reason` returns
	failed_step=$1 reason=$2 reason_hint=$3
}

because() { # KIND REASON: adds them to `reasons`, which is JSON, and to `reasons_text`, a sentence
	local escaped
	escape "$2"
	reasons="${reasons:+$reasons,}\"$1\":\"$escaped\""
	reasons_text="${reasons_text:-no kind of data root works here:}${reasons_text:+;} $1: $2" # only: auto
}

# A failure that was not foreseen must not look like the command's own end.
unexpected() { # STATUS
	[ -z "${keeper:-}" ] || kill "$keeper" 2>/dev/null || : # only: loop
	case $1 in @EXIT_BAD_INPUT@ | @EXIT_NO_DATA_ROOT@ | 143) return 0 ;; esac
	stop unexpected "the entrypoint failed with status $1" 'see the lines above'
}
