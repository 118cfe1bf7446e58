# --- speak: JSON lines on standard error; each step sets `step`, which they tell

privileged='make the container privileged' # a hint

escape() { # TEXT: sets `escaped` to the inside of a JSON string
	escaped=$1
	case $1 in
	*[\\\"[:cntrl:]]*) escaped=$(printf '%s' "$1" | tr '[:cntrl:]' ' ' | sed 's/[\\"]/\\&/g') ;;
	esac
}

speak() { # LEVEL MESSAGE [HINT]
	[ "$1${log:-}" != infoerror ] || return 0
	escape "${3:-}"
	hint=$escaped
	escape "$2"
	printf '{"kata_dind":"%s","step":"%s","message":"%s","hint":"%s"}\n' "$1" "$step" "$escaped" "$hint" >&2
}

info() { # MESSAGE [HINT]
	speak info "$@"
}

warn() { # MESSAGE [HINT]
	speak warning "$1" "${2:-$privileged}"
}

stop() { # MESSAGE HINT: no working data root can be had
	speak error "$@"
	[ -n "${facts:-}" ] || report "$1"
	exit @EXIT_NO_DATA_ROOT@
}

bad_input() { # MESSAGE HINT
	speak error "$@"
	exit @EXIT_BAD_INPUT@
}

# This kind is not possible, though another may be: a caller that finds a `reason` returns. In a copy in which nothing
# else may take its place, it ends the start.
unfit() { # MESSAGE HINT
	set -- "${whose:-}$1" "$2${otherwise:-}" # only: containerd
	failed_step=$step # only: auto
	reason=$1 reason_hint=$2 # only: choice
	[ -n "$precious" ] || undo # only: no-choice
	stop "$@" # only: no-choice
}

# A failure that was not foreseen must not look like the command's own end.
unexpected() { # STATUS
	[ -z "${keeper:-}" ] || kill "$keeper" 2>/dev/null || : # only: loop
	case $1 in @EXIT_BAD_INPUT@ | @EXIT_NO_DATA_ROOT@ | 143) return 0 ;; esac
	stop "the entrypoint failed with status $1" 'see the lines above'
}
