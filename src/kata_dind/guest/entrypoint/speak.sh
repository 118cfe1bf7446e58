# --- speak: JSON lines on standard error

escape() { # TEXT: as the inside of a JSON string, in `escaped`
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

stop() { # STEP MESSAGE HINT: no working data root can be had
	speak error "$1" "$2" "$3"
	exit @EXIT_NO_DATA_ROOT@
}

bad_input() { # MESSAGE HINT
	speak error parse "$1" "$2"
	exit @EXIT_BAD_INPUT@
}

unfit() { # STEP MESSAGE HINT: this kind can't be had, though another may; whoever sees a `reason` returns
	failed_step=$1 reason=$2 reason_hint=$3
}

because() { # KIND REASON: collects them as JSON in `reasons`, as a sentence in `reasons_text`
	local escaped
	escape "$2"
	reasons="${reasons:+$reasons,}\"$1\":\"$escaped\""
	reasons_text="${reasons_text:-no kind of data root works here}${reasons_text:+;} $1: $2"
}

# What we did not think of must not look like the command's own end.
unexpected() { # STATUS
	case $1 in @EXIT_BAD_INPUT@ | @EXIT_NO_DATA_ROOT@ | 143) return 0 ;; esac
	stop unexpected "the entrypoint failed with status $1" 'see the lines above'
}
