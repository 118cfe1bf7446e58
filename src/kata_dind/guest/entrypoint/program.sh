# --- parse: which program is started, and where that keeps its data

find_program() { # COMMAND...: sets `program` to KATA_DIND_PROGRAM, or else to what the command starts
	local word
	program=${KATA_DIND_PROGRAM:-}
	case $program in
	dockerd | buildkitd | containerd | dagger | earthly) return 0 ;;
	'') program=dockerd ;;
	*) bad_input "KATA_DIND_PROGRAM is '$program'" 'use dockerd, buildkitd, containerd, dagger or earthly' ;;
	esac
	for word in "$@"; do
		case ${word##*/} in
		dockerd | dockerd-*) ;;
		containerd) program=containerd ;;
		dagger-engine | dagger-entrypoint.sh) program=dagger ;;
		buildkitd | buildkitd-entrypoint | buildctl-daemonless.sh)
			program=buildkitd
			# Earthly's image starts a buildkitd of its own, and sets this: buildkitd/Earthfile in earthly/earthly
			[ -z "${EARTHLY_TMP_DIR:-}" ] || program=earthly
			;;
		*) continue ;;
		esac
		return 0
	done
}

# Does for every other program what `read_command` and `read_config` do for dockerd.
read_other_program() { # COMMAND...
	local home config_home
	home=/var/lib config_home=/etc
	if [ "$user" != 0 ]; then
		home=${XDG_DATA_HOME:-${HOME:-}/.local/share} config_home=${XDG_CONFIG_HOME:-${HOME:-}/.config}
	fi
	# Images that these make are in containerd's store or in one like it; its names for storage drivers are theirs.
	command_data_root='' config_driver='' config='' containerd_store=1
	case $program in
	buildkitd) default_data_root=$home/buildkit config_file=$config_home/buildkit/buildkitd.toml ;;
	containerd) default_data_root=$home/containerd config_file=$config_home/containerd/config.toml ;;
	dagger) default_data_root=/var/lib/dagger config_file=/etc/dagger/engine.toml ;;
	# Beside buildkitd's root it has the data of Docker daemons in its builds.
	earthly) default_data_root=${EARTHLY_TMP_DIR:-/tmp/earthly} config_file='' ;;
	esac
	read_root_and_config "$@"
	set -f # buildctl-daemonless.sh splits it into words, too
	# shellcheck disable=SC2086
	[ "$program" != buildkitd ] || read_root_and_config ${BUILDKITD_FLAGS:-}
	set +f
	read_toml "$config_file"
	config_data_root=$toml_root
}

read_root_and_config() { # COMMAND...
	while [ $# -gt 0 ]; do
		case $1 in
		--root=*) command_data_root=${1#*=} ;;
		--root) command_data_root=${2:-} ;;
		--config=* | -c=*) config_file=${1#*=} ;;
		--config | -c) config_file=${2:-} ;;
		esac
		shift
	done
}

# FILE: sets `toml_root` to the last `root` in it and in what it imports, in containerd's order, and empties it when there
# is none: LoadConfig in cmd/containerd/server/config/config.go. Both keys stand before the first table.
read_toml() {
	local file key line word seen
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
				*\\*) bad_input "cannot read $key in $file, because its value has a backslash in it" 'set KATA_DIND_PATH' ;;
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
