# --- parse: what the user, the command and daemon.json say

# Sets `user` to the user's number, `capabilities` to the effective ones, `default_data_root` and `config_file` to
# dockerd's defaults for that user, and `status_dir`.
find_user() {
	local key real effective run
	user=0 capabilities=0 default_data_root=/var/lib/docker config_file=/etc/docker/daemon.json run=/run
	while read -r key real effective _; do
		case $key in
		Uid:) user=$effective ;;
		CapEff:) capabilities=$((0x$real)) ;;
		esac
	done </proc/self/status
	if [ "$user" != 0 ]; then
		default_data_root=${XDG_DATA_HOME:-${HOME:-}/.local/share}/docker # only: rootless
		config_file=${XDG_CONFIG_HOME:-${HOME:-}/.config}/docker/daemon.json # only: rootless
		run=${XDG_RUNTIME_DIR:-/tmp}
	fi
	status_dir=${KATA_DIND_STATUS_DIR:-$run/kata-dind}
}

# Sets `command_data_root` from --data-root or -g, `config_file` from --config-file, and `containerd_store` when images
# are to be stored by containerd, which has other names for storage drivers.
read_command() { # COMMAND...
	local behind value
	flag --config-file "$@"
	[ -z "$value" ] || config_file=$value
	flag --data-root "$@"
	command_data_root=$value containerd_store='' behind=''
	while [ $# -gt 0 ]; do
		case $behind$1 in
		dockerd | */dockerd | dockerd-entrypoint.sh | */dockerd-entrypoint.sh) behind=. ;;
		.-g) command_data_root=${2:-} ;;
		.-g=*) command_data_root=${1#*=} ;;
		.-g*) command_data_root=${1#-g} ;;
		esac
		case ${1#--feature=} in containerd-snapshotter | containerd-snapshotter=true) containerd_store=1 ;; esac
		shift
	done
}

flag() { # FLAG COMMAND...: sets `value` to that of the last one in the command, and empties it when there is none
	local name
	name=$1 value=
	while shift && [ $# -gt 0 ]; do
		case $1 in
		"$name="*) value=${1#*=} ;;
		"$name") value=${2:-} ;;
		esac
	done
}

# Sets `config` to the text of daemon.json, and from it `config_data_root`, `config_driver` and `containerd_store`. From
# it or the command it sets `exec_root`, `log_level` and `containerd_address`, which is `dockerd` when dockerd starts
# one in a way of its own.
read_config() { # COMMAND...
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
	setting exec-root "$@"
	exec_root=${value:-/var/run/docker}
	setting log-level "$@"
	log_level=${value:-info}
	setting containerd "$@"
	case "$* $config" in *embedded-containerd* | *cri-containerd*) value=${value:-dockerd} ;; esac
	containerd_address=$value
}

setting() { # NAME COMMAND...: sets `value` to what the command or daemon.json says
	local key
	key=$1
	shift
	flag "--$key" "$@"
	[ -n "$value" ] || string_in_config "$key"
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
