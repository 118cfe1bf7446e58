# --- parse: check what was asked, and refuse what is wrong

parse() { # COMMAND...
	local dockerds
	find_user
	find_program "$@"
	kind=${KATA_DIND_DATA_ROOT:-@DEFAULT_KIND@}
	fallback=${KATA_DIND_FALLBACK:-none}
	format=${KATA_DIND_FILESYSTEM:-@DEFAULT_FILESYSTEM@}
	device=${KATA_DIND_DEVICE:-}
	directory=${KATA_DIND_DIR:-}
	check=${KATA_DIND_CHECK:-}
	exclusive=${KATA_DIND_EXCLUSIVE:-}
	refuse_what_is_left_out # only: copy
	one_of DATA_ROOT "$kind" @KINDS@ # only: auto
	one_of FALLBACK "$fallback" none vfs fuse-overlayfs # only: fallback
	one_of FILESYSTEM "$format" ext4 xfs # only: whole
	one_of CHECK "${check:-0}" 0 1 # only: disk
	one_of EXCLUSIVE "${exclusive:-1}" 1 # only: disk
	one_of LOG "${KATA_DIND_LOG:-info}" info error
	case $program in
	dockerd) # only: dockerd
		read_command "$@"
		read_config "$@"
		;;
	*) read_other_program "$@" ;; # only: other-programs
	esac
	find_system_containerd "$@"
	refuse_system_containerd # only: no-containerd
	dockerds=${command_data_root:-$config_data_root}
	path=${KATA_DIND_PATH:-${dockerds:-$default_data_root}}
	[ -z "$dockerds" ] || [ "${dockerds%/}" = "${path%/}" ] ||
		bad_input "KATA_DIND_PATH is '$path', but $program is told to use '$dockerds'" 'leave KATA_DIND_PATH out'
	case $path in
	*[[:cntrl:]]*) bad_input "the data root '$path' has a control character in it" 'use another path' ;;
	/*) ;;
	*) bad_input "the data root '$path' is not an absolute path" "set KATA_DIND_PATH=$default_data_root" ;;
	esac
	read_size # only: size
	# only: block
	[ "$kind,$device" != block, ] || bad_input 'the block kind needs KATA_DIND_DEVICE' 'set it, like /dev/vdb'
	case $directory in # only: loop
	'' | /*) directory=${directory%/} ;;
	*) bad_input "KATA_DIND_DIR is '$directory', which is not an absolute path" 'use an absolute path' ;;
	esac
}

one_of() { # NAME VALUE ALLOWED...: refuses another value of the variable KATA_DIND_NAME
	local name value allowed
	name=$1 value=$2
	shift 2
	for allowed in "$@"; do
		[ "$value" != "$allowed" ] || return 0
	done
	bad_input "KATA_DIND_$name is '$value'" "leave it out, or use: $*"
}

read_size() { # sets `size` and `size_mib`
	local mib
	size=${KATA_DIND_SIZE:-20G}
	size_in_mib "$size"
	[ -n "$mib" ] || bad_input "KATA_DIND_SIZE is '$size'" 'use a number and K, M, G or T, like 20G'
	[ "$mib" -le 16777216 ] || bad_input "KATA_DIND_SIZE is '$size', which is too large" 'use at most 16T'
	[ "$mib" -ge $least_mib ] || bad_input "KATA_DIND_SIZE is '$size', which is too small" "use at least ${least_mib}M"
	size_mib=$mib
}

size_in_mib() { # SIZE: sets `mib` from a number and K, M, G or T, and empties it for anything else
	mib=${1%[KMGT]}
	case $mib in '' | 0* | *[!0-9]* | ??????????*) mib= && return 0 ;; esac
	case $1 in
	*K) mib=$(((mib + 1023) / 1024)) ;;
	*M) ;;
	*G) mib=$((mib * 1024)) ;;
	*T) mib=$((mib * 1048576)) ;;
	*) mib= ;;
	esac
}
