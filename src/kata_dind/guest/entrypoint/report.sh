# --- report: what others may read

report() { # [ERROR]: sets `facts`, the fields of a JSON object, and writes them to status.json
	local size_bytes memory_mib memory_of written
	count_bytes
	if [ "$kind$filesystem" = kepttmpfs ]; then # only: auto
		memory_mib_of_guest
		[ $((size_bytes / 1048576)) -le "$memory_mib" ] || warn report \
			"$path shows $((size_bytes / 1048576)) MiB, which is more than $memory_of" 'set KATA_DIND_SIZE'
	fi
	case $kind in loop | block) ;; *) device= ;; esac
	begin_facts
	fact kind "$kind"
	fact path "$path"
	fact filesystem "$filesystem"
	fact device "$device"
	facts="$facts,\"size_bytes\":$size_bytes,\"direct_io\":$direct_io"
	fact storage_driver "$driver"
	fact program "$program"
	fact containerd_root "$containerd_root" # of a system containerd
	facts="$facts,\"proof\":{$proof},\"reasons\":{$reasons}"
	[ -z "${1:-}" ] || fact error "$1"
	write_status
	[ -n "$written" ] ||
		warn report "cannot write $status_dir/status.json" "give the container a writable ${status_dir%/*}"
}

report_failure() { # ERROR, by which a start ends before there is more to report
	local written
	[ -n "${status_dir:-}" ] || return 0
	begin_facts
	fact kind ''
	fact error "$1"
	write_status
}

begin_facts() {
	facts='"interface":@INTERFACE@,"version":"@VERSION@"'
}

fact() { # NAME VALUE: adds them to `facts`
	local escaped
	escape "$2"
	facts="$facts,\"$1\":\"$escaped\""
}

write_status() { # sets `written` when $facts are in status.json
	written=''
	[ -d "$status_dir" ] || mkdir -p -- "$status_dir" 2>/dev/null || return 0
	{ printf '{%s}\n' "$facts" >"$status_dir/status.json"; } 2>/dev/null || return 0
	written=1
}

say_ready() { # the facts, on standard error
	[ "${KATA_DIND_LOG:-info}" = error ] || printf '{"kata_dind":"info","step":"ready",%s}\n' "$facts" >&2
}

count_bytes() { # sets `size_bytes` to the size of the data root's file system
	local blocks
	size_bytes=0
	blocks=$(stat -f -c '%b %S' "$path" 2>/dev/null) || return 0
	size_bytes=$((${blocks% *} * ${blocks#* }))
}
