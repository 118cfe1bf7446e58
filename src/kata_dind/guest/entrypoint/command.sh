# --- parse: what the user, the command and daemon.json say

# The user's number in `user`; what dockerd takes for this user in `default_data_root` and `config_file`; `status_dir`.
find_user() {
	local key value run
	user=0 default_data_root=/var/lib/docker config_file=/etc/docker/daemon.json run=/run
	while read -r key _ value _; do
		[ "$key" != Uid: ] || user=$value
	done </proc/self/status
	if [ "$user" != 0 ]; then
		default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/docker
		config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/docker/daemon.json
		run=${XDG_RUNTIME_DIR:-/tmp}
	fi
	status_dir=${KATA_DIND_STATUS_DIR:-$run/kata-dind}
}

# What --data-root or -g says, in `command_data_root`; --config-file, in `config_file`; and in `containerd_store` that
# images are containerd's, whose names for storage are others.
read_command() { # COMMAND...
	local behind
	command_data_root='' containerd_store='' behind=''
	while [ $# -gt 0 ]; do
		case $behind$1 in
		dockerd | */dockerd | dockerd-entrypoint.sh | */dockerd-entrypoint.sh) behind=. ;;
		.-g) [ $# -lt 2 ] || command_data_root=$2 ;;
		.-g=*) command_data_root=${1#*=} ;;
		.-g*) command_data_root=${1#-g} ;;
		esac
		case $1 in
		--data-root=*) command_data_root=${1#*=} ;;
		--data-root) [ $# -lt 2 ] || command_data_root=$2 ;;
		--config-file=*) config_file=${1#*=} ;;
		--config-file) [ $# -lt 2 ] || config_file=$2 ;;
		containerd-snapshotter | containerd-snapshotter=true) containerd_store=1 ;;
		--feature=containerd-snapshotter | --feature=containerd-snapshotter=true) containerd_store=1 ;;
		esac
		shift
	done
}

read_config() { # daemon.json in `config`; of it, `config_data_root`, `config_driver` and `containerd_store`
	local line value
	config=
	if [ -f "$config_file" ] && [ -r "$config_file" ]; then
		while read -r line || [ -n "$line" ]; do
			config="$config$line "
		done <"$config_file"
	fi
	case $config in *'"containerd-snapshotter":true'* | *'"containerd-snapshotter": true'*) containerd_store=1 ;; esac
	string_in_config data-root
	config_data_root=$value
	string_in_config storage-driver
	config_driver=$value
}

string_in_config() { # KEY: its string, in `value`; empty when there is none
	local rest mark
	value=
	case $config in *"\"$1\""*) ;; *) return 0 ;; esac
	rest=${config#*"\"$1\""}
	for mark in : '"'; do
		rest=${rest#"${rest%%[! 	]*}"}
		case $rest in "$mark"*) rest=${rest#?} ;; *) return 0 ;; esac
	done
	value=${rest%%\"*}
	case $value in
	*\\*) bad_input "cannot read $1 in $config_file, for it has a backslash in it" 'set KATA_DIND_PATH' ;;
	esac
}
