# --- parse: check what was asked, and refuse what is wrong

parse() { # COMMAND...
	default_data_root=/var/lib/docker config_file=/etc/docker/daemon.json
	status_dir=${KATA_DIND_STATUS_DIR:-/run/kata-dind}
	find_user # only: rootless
	find_program "$@" # only: other-programs
	take PROGRAM program --program dockerd # only: no-other-programs
	take DATA_ROOT kind --kind @KINDS@
	take FALLBACK fallback --fallback @FALLBACKS@
	take FILESYSTEM format @FILESYSTEM_OPTION@ @FILESYSTEMS@
	take CHECK check @DISK_OPTION@ '' @CHECKS@
	take EXCLUSIVE exclusive @DISK_OPTION@ '' @EXCLUSIVES@
	take LOG log '' info error
	take DEVICE device --kind=block '' # only: no-block
	take DIR directory --kind=loop '' # only: no-loop
	take SIZE size --kind=loop '' # only: no-size
	read_command "$@" # only: dockerd
	read_config "$@" # only: dockerd
	read_other_program "$@" # only: other-programs
	find_containerd
	path=${KATA_DIND_PATH:-${data_root:-$default_data_root}}
	require_absolute 'the data root' "$path"
	[ -z "$data_root" ] || [ "${data_root%/}" = "${path%/}" ] ||
		bad_input "KATA_DIND_PATH is '$path', but $program is told to use '$data_root'" 'leave it out'
	read_size # only: size
	# only: loop
	directory=${KATA_DIND_DIR:-$path}
	require_absolute KATA_DIND_DIR "$directory" # only: loop
	device=${KATA_DIND_DEVICE:-} # only: block
	# only: block
	[ "$kind,$device" != block, ] || bad_input 'the block kind needs KATA_DIND_DEVICE' 'set it, like /dev/vdb'
}

# Sets a variable to KATA_DIND_NAME, which must be one of some values; the first of them is the default. A copy for a pod
# allows less than the whole program, and the option makes a copy for the others.
take() { # NAME VARIABLE OPTION VALUE...
	eval 'value=${KATA_DIND_'"$1:-$4} $2="'$value'
	# shellcheck disable=SC2034 # a copy has more of this
	name=$1 option=$3
	shift 3
	for allowed in "$@"; do
		[ "$value" != "$allowed" ] || return 0
	done
	bad_input "KATA_DIND_$name is '$value'" "leave it out, or use: $*" # only: whole
	# only: copy
	bad_input "KATA_DIND_$name is '$value', but this file serves: $*" \
		"leave it out${option:+, or use: kata-dind entrypoint $option}"
}

require_absolute() { # NAME PATH
	case $2 in
	[!/]* | *[[:cntrl:]\\]*) bad_input "$1 is '$2', not a plain absolute path" "use one like $default_data_root" ;;
	esac
}

read_size() { # sets `size` and `size_mib`
	size=${KATA_DIND_SIZE:-20G} size_mib=0
	case $size in
	[!1-9]* | *[!0-9]?* | ???????????*) ;;
	*K) size_mib=$((${size%K} >> 10)) ;;
	*M) size_mib=${size%M} ;;
	*G) size_mib=$((${size%G} << 10)) ;;
	*T) size_mib=$((${size%T} << 20)) ;;
	esac
	[ "$size_mib" -ge @LEAST_MIB@ ] && [ "$size_mib" -le 16777216 ] ||
		bad_input "KATA_DIND_SIZE is '$size', not a size from @LEAST_MIB@M to 16T" 'use one like 20G'
}
