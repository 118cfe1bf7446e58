# --- parse: what a copy of this program has left out

# Only a copy has this: it refuses what the whole program would take, and names the option that makes the right copy.
refuse_what_is_left_out() {
	local word name only value
	for word in @LEFT_OUT@; do # NAME=VALUE:OPTION
		name=${word%%=*} only=${word%:*}
		only=${only#*=}
		eval 'value=${KATA_DIND_'"$name:-$only}"
		[ "$value" = "$only" ] || bad_input "KATA_DIND_$name is '$value', but this file serves ${only:-none}" \
			"leave it out, or take the file of: kata-dind entrypoint ${word##*:}"
	done
	[ "$program" = @PROGRAM@ ] || bad_input "the command starts $program, but this file serves @PROGRAM@" \
		"set KATA_DIND_PROGRAM=@PROGRAM@ if it does not, or take the file of: kata-dind entrypoint --program $program"
	# only: no-rootless
	[ "$user" = 0 ] || stop parse "only root can prepare the $kind kind, and the container's user is $user" \
		'run the container as root (runAsUser: 0), or take the file of: kata-dind entrypoint --kind auto'
}

refuse_system_containerd() { # which is found, but whose root nothing here can prepare
	[ -z "$containerd_root" ] || bad_input "this file does not serve a system containerd, whose root is $containerd_root" \
		'take the file of: kata-dind entrypoint --containerd; or, if nothing uses it, set KATA_DIND_CONTAINERD=none'
}
