# --- report: what others may read

# Sets `facts`, the fields of a JSON object, and writes them to status.json.
report() { # [ERROR]
	# shellcheck disable=SC2034 # one of the names below
	error=${1:-} size_bytes=0
	! blocks=$(stat -f -c '%b %S' "${path:-}" 2>/dev/null) || size_bytes=$((${blocks% *} * ${blocks#* }))
	if [ "${kind:-}${filesystem:-}" = kepttmpfs ]; then # only: auto
		memory_mib_of_guest
		[ $((size_bytes / 1048576)) -le "$memory_mib" ] || warn \
			"$path shows $((size_bytes / 1048576)) MiB, which is more than $memory_of" 'set KATA_DIND_SIZE'
	fi
	case ${kind:-} in auto) kind='' ;; loop | block) ;; *) device='' ;; esac # only: auto
	facts='"interface":@INTERFACE@,"version":"@VERSION@","size_bytes":'$size_bytes',"direct_io":'$direct_io
	for name in kind path filesystem device storage_driver program containerd_root ${1:+error}; do
		eval 'escape "${'"$name"':-}"'
		facts=$facts,\"$name\":\"$escaped\"
	done
	facts=$facts',"proof":{'$proof'},"reasons":{'$reasons'}'
	{ { [ -d "$status_dir" ] || mkdir -p -- "$status_dir"; } && printf '{%s}\n' "$facts" >"$status_dir/status.json"; } \
		2>/dev/null || [ -n "$error" ] || warn "cannot write $status_dir/status.json" "make ${status_dir%/*} writable"
}
