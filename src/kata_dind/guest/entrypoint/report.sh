# --- report: what others may read

report() { # [ERROR]: sets `facts`, the fields of a JSON object, and writes them to status.json
	local escaped path_text size_bytes memory_mib memory_of written
	count_bytes
	if [ "$kind$filesystem" = kepttmpfs ]; then
		memory_mib_of_guest
		[ $((size_bytes / 1048576)) -le "$memory_mib" ] || speak warning report \
			"$path shows $((size_bytes / 1048576)) MiB, which is more than $memory_of" 'set KATA_DIND_SIZE'
	fi
	[ "$kind" = loop ] || [ "$kind" = block ] || device=
	escape "$path"
	path_text=$escaped
	escape "$device"
	facts="\"interface\":@INTERFACE@,\"version\":\"@VERSION@\""
	facts="$facts,\"kind\":\"$kind\",\"path\":\"$path_text\",\"filesystem\":\"$filesystem\",\"device\":\"$escaped\""
	facts="$facts,\"size_bytes\":$size_bytes,\"direct_io\":$direct_io,\"storage_driver\":\"$driver\""
	escape "$containerd_root"
	facts="$facts,\"program\":\"$program\",\"containerd_root\":\"$escaped\"" # the latter of a system containerd
	facts="$facts,\"proof\":{$proof},\"reasons\":{$reasons}"
	escape "${1:-}"
	[ -z "$escaped" ] || facts="$facts,\"error\":\"$escaped\""
	write_status
	[ -n "$written" ] ||
		speak warning report "cannot write $status_dir/status.json" "give the container a writable ${status_dir%/*}"
}

report_failure() { # ERROR, by which a start ends before there is more to report
	local escaped written
	[ -n "${status_dir:-}" ] || return 0
	escape "$1"
	facts="\"interface\":@INTERFACE@,\"version\":\"@VERSION@\",\"kind\":\"\",\"error\":\"$escaped\""
	write_status
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
