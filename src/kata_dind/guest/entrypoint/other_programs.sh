# --- parse: where programs other than dockerd keep their data

# Does for them what `read_command` and `read_config` do for dockerd.
read_other_program() { # COMMAND...
	[ "$program" != dockerd ] || return 0
	# Their storage drivers have containerd's names.
	dockerd='' data_root='' overlay=overlayfs uses_containerd=1 said=''
	case $program in
	earthly)
		# Its entrypoint puts buildkitd's root below this, beside the data of inner dockerds, and then starts buildkitd.
		default_data_root=${EARTHLY_TMP_DIR:-/tmp/earthly}
		return 0
		;;
	dagger) name=dagger file=engine.toml ;;
	buildkitd) name=buildkit file=buildkitd.toml ;;
	*) name=containerd file=config.toml ;;
	esac
	default_data_root=/var/lib/$name config_file=/etc/$name/$file
	if [ "$user" != 0 ]; then # only: rootless
		default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/$name
		config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/$name/$file
	fi
	set -f # for the words of the variable that buildctl-daemonless.sh reads
	# shellcheck disable=SC2086
	set -- "$@" ${BUILDKITD_FLAGS:-}
	set +f
	flag --root "$@"
	data_root=$value
	flag -c "$@"
	config_file=${value:-$config_file}
	flag --config "$@"
	read_toml "${value:-$config_file}"
	data_root=${data_root:-$toml_root}
}

flag() { # FLAG COMMAND...: sets `value` to that of the last one in the command, and empties it when there is none
	name=$1 value=''
	while shift && [ $# -gt 0 ]; do
		case $1 in
		"$name="*) value=${1#*=} ;;
		"$name") value=${2:-} ;;
		esac
	done
}
