# --- tune: a forced stop must reach processes that have moved one cgroup down

# Kata's agent kills only what stands in the container's own cgroup, and that cgroup may hold no process once its children
# have controllers. A program of 12 KiB, whose source is watch.s, takes notice of the agent's attempt and kills the rest.
# It ends with the command, holds nothing open, and removes its own file.
watch_for_forced_stop() { # in /sys/fs/cgroup
	local machine head middle machine_byte code names ours here line place filesystem mount_point mount_numbers
	local mount_flags is_mount_point
	[ -e /sys/fs/cgroup/cgroup.freeze ] || return 0 # the root of all cgroups can't be frozen
	{ read -r machine </proc/sys/kernel/arch; } 2>/dev/null || machine=$(uname -m) # Linux 6.1
	head='\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0'
	middle='\0\1\0\0\0x\0@\0\0\0\0\0@\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0@\08\0\1\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\0'
	middle=$middle'\0\0\0\0\0\0\0\0\0@\0\0\0\0\0\0\0@\0\0\0\0\0\0\4\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\0\1\0\0\0\0\0'
	case $machine in
	x86_64)
		machine_byte='>'
		code='H\213,\44H\213|\44\10jWX\17\5H\201\354\0\4\0\0j\1_j\11^h\235\0\0\0X\17\5jpX\17\0051\377\203\316'
		code=$code'\3771\322h\264\1\0\0X\17\5h&\1\0\0X\17\5A\211\304H\2155\37\1\0\0\262)\350\305\0\0\0H\2155\37'
		code=$code'\1\0\0\262\20\350\267\0\0\0H\2155\36\1\0\0\350\253\0\0\0E1\355A\203\375\3\17\204\256\0\0\0E1'
		code=$code'\355H\211\347D\211\47j\1^\211w\4\203\312\377E\205\355t\20\272\320\7\0\0A\203\375\3u\5\272\310'
		code=$code'\0\0\0j\7X\17\5\205\300t\306\177\12\203\370\374t\314\351\256\0\0\0D\211\347H\211\346\272\0\4'
		code=$code'\0\0001\300\17\5\205\300\17\216\227\0\0\0H\211\343L\215<\3\213\3\213K\4H\203\303\20\377\310t'
		code=$code'\21A\203\375\3tAE\205\355t\42j\2A]\353\34\366\301\10u\12\366\301\1t\22E1\355\353\15A\203\375'
		code=$code'\2j\1A]u\3A\265\3L9\373r\301\351e\377\377\377D\211\347h\376\0\0\0X\17\5\205\300x=\303\377\315'
		code=$code't\25\277\6B\0\0j\1^1\322A\272\0\0\20\0jeX\17\5j\234_H\2155J\0\0\0j\1Zh\1\1\0\0X\17\5\211\307H'
		code=$code'\2155B\0\0\0j\1X\17\0051\377j<X\17\5'
		;;
	aarch64)
		machine_byte='\267'
		code='\363\3@\371\140\14\200\222\341\7@\371\2\0\200\322h\4\200R\1\0\0\324\377\3\20\321 \0\200\322!\1\200'
		code=$code'\322\350\24\200R\1\0\0\324\250\23\200R\1\0\0\324\0\0\200\322\1\0\200\222\2\0\200\322\2106\200'
		code=$code'R\1\0\0\324\0\0\200\322H\3\200R\1\0\0\324\364\3\0*\341\12\0\20\42\5\200\322;\0\0\224\341\12\0'
		code=$code'P\2\2\200\3228\0\0\224\341\12\0p6\0\0\224\25\0\200R\277\16\0q\0\7\0T\25\0\200R\340\3\24*!\0'
		code=$code'\200R\340\7\0)\2\0\200\322\25\1\0004\342C\0\221C\0\200\322C|\0\251\277\16\0qa\0\0T\3\10\0\30_'
		code=$code'\14\0\251\340\3\0\221!\0\200\322\3\0\200\322(\11\200R\1\0\0\324\200\375\3774\37\20\0001\240'
		code=$code'\375\377T\140\6\3707\340\3\24*\341\3\0\221\2\200\200\322\350\7\200R\1\0\0\324\37\0\0q\215\5\0'
		code=$code'T\367\3\0\221\370B \213\340\6\302(\37\4\0q\300\0\0T\277\16\0q\200\2\0Tu\1\0004U\0\200R\11\0\0'
		code=$code'\24\201\0\0307\341\0\0006\25\0\200R\5\0\0\24\277\12\0q5\0\200RA\0\0Tu\0\200R\377\2\30\353\353'
		code=$code'\375\377T\320\377\377\27\340\3\24*h\3\200R\1\0\0\324\140\2\3707\300\3_\326\177\6\0\361\355\0'
		code=$code'\0T\300@\210\322!\0\200\322\2\0\200\322\3\2\240\322\250\16\200R\1\0\0\324\140\14\200\222\301'
		code=$code'\2\0P\42\0\200\322\10\7\200R\1\0\0\324\241\2\0P\42\0\200\322\10\10\200R\1\0\0\324\0\0\200\322'
		code=$code'\250\13\200R\1\0\0\324\0\302\353\13'
		;;
	*) machine= ;;
	esac
	names='cgroup.freeze\0cgroup.procs\0cgroup.threads\0cgroup.kill\0001'
	ours='' here='' # whether process 1 is the container's, and not a pod's
	while read -r line; do
		case $line in 0::*) here=$line ;; esac
	done </proc/self/cgroup
	while read -r line; do
		[ "$line" != "$here" ] || ours=1
	done </proc/1/cgroup || :
	for place in "$status_dir" /dev; do
		filesystem_of "$place"
		case ${machine:-none},$mount_flags, in none,* | *,noexec,*) continue ;; esac
		place=$place/kata-dind-watch
		# shellcheck disable=SC2059
		{ printf "$head$machine_byte$middle$code$names" >"$place"; } 2>/dev/null || continue
		chmod 0700 "$place" || continue
		{ cd /sys/fs/cgroup && exec "$place" $ours; } </dev/null >/dev/null 2>&1 9<&- &
		return 0
	done
	speak warning tune 'in a Kata guest, a forced stop (SIGKILL) will not end this container' \
		'stop it with a grace period that is long enough for dockerd'
}
