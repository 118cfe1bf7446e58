# --- parse: what the user, the command and daemon.json say

# Sets `user` to the user's number, `default_data_root` and `config_file` to dockerd's defaults for that user, and
# `status_dir`.
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

# Sets `command_data_root` from --data-root or -g, `config_file` from --config-file, and `containerd_store` when images
# are to be stored by containerd, which has other names for storage drivers. For containerd's sake it sets
# `containerd_address`, `exec_root` and `log_level` to what flags of these names say, and `leave_containerd` when dockerd
# does something with containerd that only dockerd can do, or does not start.
read_command() { # COMMAND...
	local behind
	command_data_root='' containerd_store='' behind='' containerd_address='' exec_root='' log_level='' leave_containerd=''
	while [ $# -gt 0 ]; do
		case $behind$1 in
		dockerd | */dockerd | dockerd-entrypoint.sh | */dockerd-entrypoint.sh) behind=. ;;
		.-g) [ $# -lt 2 ] || command_data_root=$2 ;;
		.-g=*) command_data_root=${1#*=} ;;
		.-g*) command_data_root=${1#-g} ;;
		.-l) log_level=${2:-} ;;
		.-D) log_level=debug ;;
		.-v | .-h) leave_containerd=1 ;;
		esac
		case $1 in
		--data-root=*) command_data_root=${1#*=} ;;
		--data-root) [ $# -lt 2 ] || command_data_root=$2 ;;
		--config-file=*) config_file=${1#*=} ;;
		--config-file) [ $# -lt 2 ] || config_file=$2 ;;
		--containerd=*) containerd_address=${1#*=} ;;
		--containerd) containerd_address=${2:-} ;;
		--exec-root=*) exec_root=${1#*=} ;;
		--exec-root) exec_root=${2:-} ;;
		--log-level=*) log_level=${1#*=} ;;
		--log-level) log_level=${2:-} ;;
		--debug | --debug=true) log_level=debug ;;
		--version | --help | --validate | --cri-containerd* | *embedded-containerd*) leave_containerd=1 ;;
		containerd-snapshotter | containerd-snapshotter=true) containerd_store=1 ;;
		--feature=containerd-snapshotter | --feature=containerd-snapshotter=true) containerd_store=1 ;;
		esac
		shift
	done
}

# Sets `config` to the text of daemon.json, and from it `config_data_root`, `config_driver` and `containerd_store`.
read_config() {
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
	string_in_config containerd
	containerd_address=${containerd_address:-$value}
	string_in_config exec-root
	exec_root=${exec_root:-${value:-/var/run/docker}}
	string_in_config log-level
	log_level=${log_level:-${value:-info}}
	case $config in *'"debug":true'* | *'"debug": true'*) log_level=debug ;; esac
	case $config in *embedded-containerd* | *'"cri-containerd"'*) leave_containerd=1 ;; esac
}

string_in_config() { # KEY: sets `value` to its string, and empties it when there is none
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
	*\\*) bad_input "cannot read $1 in $config_file, because its value has a backslash in it" 'write it without one' ;;
	esac
}
