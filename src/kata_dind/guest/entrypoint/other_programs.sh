# --- parse: where programs other than dockerd keep their data

# Does for them what `read_command` and `read_config` do for dockerd.
read_other_program() { # COMMAND...
	local value toml_root
	# Their storage drivers have containerd's names.
	command_data_root='' config_data_root='' config_driver='' config='' containerd_store=1
	case $program in
	earthly)
		# Its entrypoint puts buildkitd's root below this, beside the data of inner dockerds, and then starts buildkitd.
		default_data_root=${EARTHLY_TMP_DIR:-/tmp/earthly}
		return 0
		;;
	dagger) default_data_root=dagger config_file=dagger/engine.toml ;;
	buildkitd) default_data_root=buildkit config_file=buildkit/buildkitd.toml ;;
	*) default_data_root=containerd config_file=containerd/config.toml ;;
	esac
	if [ "$user" = 0 ]; then
		default_data_root=/var/lib/$default_data_root config_file=/etc/$config_file
	else
		default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/$default_data_root
		config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/$config_file
	fi
	set -f # for the words of the variable that buildctl-daemonless.sh reads
	# shellcheck disable=SC2086
	set -- "$@" ${BUILDKITD_FLAGS:-}
	set +f
	flag --root "$@"
	command_data_root=$value
	flag -c "$@"
	config_file=${value:-$config_file}
	flag --config "$@"
	read_toml "${value:-$config_file}"
	config_data_root=$toml_root
}
