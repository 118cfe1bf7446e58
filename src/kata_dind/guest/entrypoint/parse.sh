# --- parse: check what was asked, and refuse what is wrong

parse() {
	local dockerds mib
	find_user
	find_program "$@"
	if [ "$program" = dockerd ]; then
		read_command "$@"
		read_config "$@"
	else
		read_other_program "$@"
	fi
	find_system_containerd "$@"
	kind=${KATA_DIND_DATA_ROOT:-@DEFAULT_KIND@}
	case $kind in
	@KINDS@) ;;
	*) bad_input "KATA_DIND_DATA_ROOT is '$kind'" 'use @KINDS_IN_WORDS@' ;;
	esac
	fallback=${KATA_DIND_FALLBACK:-none}
	case $fallback in
	none | vfs | fuse-overlayfs) ;;
	*) bad_input "KATA_DIND_FALLBACK is '$fallback'" 'use none, vfs or fuse-overlayfs' ;;
	esac
	format=${KATA_DIND_FILESYSTEM:-ext4}
	case $format in
	ext4 | xfs) ;;
	*) bad_input "KATA_DIND_FILESYSTEM is '$format'" 'use ext4 or xfs' ;;
	esac
	dockerds=${command_data_root:-$config_data_root}
	path=${KATA_DIND_PATH:-${dockerds:-$default_data_root}}
	[ -z "$dockerds" ] || [ "${dockerds%/}" = "${path%/}" ] ||
		bad_input "KATA_DIND_PATH is '$path', but $program is told to use '$dockerds'" 'leave KATA_DIND_PATH out'
	case $path in
	*[[:cntrl:]]*) bad_input "the data root '$path' has a control character in it" 'use another path' ;;
	/*) ;;
	*) bad_input "the data root '$path' is not an absolute path" "set KATA_DIND_PATH=$default_data_root" ;;
	esac
	size=${KATA_DIND_SIZE:-20G}
	size_in_mib "$size"
	[ -n "$mib" ] || bad_input "KATA_DIND_SIZE is '$size'" 'use a number and K, M, G or T, like 20G'
	size_mib=$mib
	[ "$size_mib" -le 16777216 ] || bad_input "KATA_DIND_SIZE is '$size', which is too large" 'use at most 16T'
	[ "$size_mib" -ge $least_mib ] ||
		bad_input "KATA_DIND_SIZE is '$size', which is too small" "use at least ${least_mib}M"
	device=${KATA_DIND_DEVICE:-}
	[ "$kind" != block ] || [ -n "$device" ] ||
		bad_input 'the block kind needs KATA_DIND_DEVICE' 'set it to the device, like /dev/vdb'
	directory=${KATA_DIND_DIR:-}
	case $directory in
	'' | /*) directory=${directory%/} ;;
	*) bad_input "KATA_DIND_DIR is '$directory', which is not an absolute path" 'use an absolute path' ;;
	esac
	check=${KATA_DIND_CHECK:-}
	case $check in
	'' | 0 | 1) ;;
	*) bad_input "KATA_DIND_CHECK is '$check'" 'use 1, or leave it out' ;;
	esac
	exclusive=${KATA_DIND_EXCLUSIVE:-}
	case $exclusive in
	'' | 1) ;;
	*) bad_input "KATA_DIND_EXCLUSIVE is '$exclusive'" 'use 1, or leave it out' ;;
	esac
	case ${KATA_DIND_LOG:-info} in
	info | error) ;;
	*) bad_input "KATA_DIND_LOG is '$KATA_DIND_LOG'" 'use info or error' ;;
	esac
}

size_in_mib() { # SIZE: sets `mib` from a number and K, M, G or T, and empties it for anything else
	local number
	mib=
	number=${1%[KMGT]}
	case $number in '' | 0* | *[!0-9]* | ??????????*) return 0 ;; esac
	case $1 in
	*K) mib=$(((number + 1023) / 1024)) ;;
	*M) mib=$number ;;
	*G) mib=$((number * 1024)) ;;
	*T) mib=$((number * 1024 * 1024)) ;;
	esac
}
