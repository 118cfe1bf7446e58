# --- two programs for which no image has others

machine='' # what the kernel says, once it was asked

# FILE X86_64 AARCH64 [MORE]: writes a program for this machine: the head of elf.s, then what the source has behind it,
# both in base64, then MORE, as `printf %b` takes it. Sets `written` when it may be run.
write_program() {
	local elf code
	written=''
	[ -n "$machine" ] || { read -r machine </proc/sys/kernel/arch; } 2>/dev/null || machine=$(uname -m) # Linux 6.1
	case $machine in
	x86_64) elf=PgAB code=$2 ;;
	aarch64) elf=twAB code=$3 ;;
	*) return 0 ;;
	esac
	elf=f0VMRgIBAQAAAAAAAAAAAAIA$elf
	elf=$elf'AAAAtABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAA'
	elf=$elf'AAAAAAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAAQAAAAAAAAABAAAAAAAAAAAAQAAAAAA'
	if {
		base64 -d <<-END && printf %b "${4:-}"
			$elf$code
		END
	} 2>/dev/null >"$1" && chmod 0700 "$1" 2>/dev/null; then
		written=1
	fi
}
