# --- parse: where programs other than dockerd keep their data

# Does for every other program what `read_command` and `read_config` do for dockerd.
read_other_program() { # COMMAND...
	local home config_home
	home=/var/lib config_home=/etc
	if [ "$user" != 0 ]; then
		home=${XDG_DATA_HOME:-${HOME:-}/.local/share} config_home=${XDG_CONFIG_HOME:-${HOME:-}/.config}
	fi
	# Images that these make are in containerd's store or in one like it; its names for storage drivers are theirs.
	command_data_root='' config_data_root='' config_driver='' config='' containerd_store=1
	case $program in
	buildkitd) default_data_root=$home/buildkit config_file=$config_home/buildkit/buildkitd.toml ;;
	containerd) default_data_root=$home/containerd config_file=$config_home/containerd/config.toml ;;
	dagger) default_data_root=/var/lib/dagger config_file=/etc/dagger/engine.toml ;;
	earthly)
		# Beside buildkitd's root, which its entrypoint writes into a configuration, it has the data of inner dockerds.
		default_data_root=${EARTHLY_TMP_DIR:-/tmp/earthly}
		return 0
		;;
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
