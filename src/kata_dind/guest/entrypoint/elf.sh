# --- two programs for which no image has others

# NAME INPUT X86_64 AARCH64 [ARGUMENTS...]: writes a program, runs it, and removes it. It is the head of elf.s, and what
# the source has behind it, both in base64. Sets `called` to the exit status, and empties it when no program could be
# run.
run_program() {
	name=kata-dind-$1 input=$2 called=''
	case ${machine:=$(uname -m)} in
	x86_64) elf=PgAB code=$3 ;;
	aarch64) elf=twAB code=$4 ;;
	*) return 0 ;;
	esac
	shift 4
	for place in "$status_dir" /dev; do
		place=$place/$name called=126 # which also says that the place is mounted noexec
		if base64 -d <<-END 2>/dev/null >"$place" && chmod 0700 "$place"; then
			f0VMRgIBAQAAAAAAAAAAAAIA$elf
			AAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAAAAAAAAAAAAAAAAAEAAAAAA
			AAAAQAAAAAAAAAQAAAAAAAAABAAAAAAAAAAAAQAAAAAA$code
			END
			called=0
			"$place" "$@" <"$input" 2>/dev/null || called=$?
		fi
		rm -f -- "$place" || :
		[ $called -ge 126 ] || return 0
	done
	called=''
}
