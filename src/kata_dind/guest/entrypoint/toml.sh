# --- parse: what TOML files say, for containerd and the programs that are made from it

# FILE: sets `toml_root` to the last `root` in it and in what it imports, in containerd's order, and empties it when
# there is none: LoadConfig in cmd/containerd/server/config/config.go. Both keys stand before the first table.
read_toml() {
	toml_root='' seen=:
	while [ $# -gt 0 ]; do
		file=$1 key=''
		shift
		case $seen in *":$file:"*) continue ;; esac
		seen=$seen$file:
		[ -f "$file" ] && [ -r "$file" ] || continue
		while read -r line || [ -n "$line" ]; do
			case $key$line in
			root[=[:blank:]]* | imports[=[:blank:]]*) key=${line%%[=[:blank:]]*} ;;
			'['*) break ;;
			*) [ -n "$key" ] || continue ;;
			esac
			while :; do
				case $line in '#'*) break ;; *[\"\']*) ;; *) break ;; esac
				line=${line#*[\"\']}
				word=${line%%[\"\']*}
				line=${line#"$word"}
				line=${line#?}
				case $key,$word in
				*\\*) bad_input "cannot read $key in $file, because its value has a backslash in it" 'write it without one' ;;
				root,*) toml_root=$word key='' && break ;;
				imports,/*) ;;
				*) word=${file%/*}/$word ;;
				esac
				IFS=
				# shellcheck disable=SC2086
				set -- "$@" $word # which may be a pattern
				unset IFS
			done
			case $key,$line in root,* | *]*) key= ;; esac
		done <"$file"
	done
}
