#!/bin/sh
# What published_port.sh asks in a pod is passed on to the host on standard output, and the host's answers come back on
# standard input; both in lines. It takes the directory of the questions, the pod's own address, and that of the host by
# which the host reaches the pod.
#
#     kernel RELEASE    there QUESTION    waiting QUESTION    all    QUESTION    PID end
#     PID told    PID no REASON
#
# After `all`, which follows those ports that are there already, come new ones. When the host ends, by the end of the
# input, whoever still waits is let go on without an answer.
set -eu

places=$1
reader=''

# One whose host was killed may still run and take what is for us.
end_earlier() {
	read -r earlier <"$places/served" || return 0
	for pid in $earlier; do
		grep -qs ports_of_pod "/proc/$pid/cmdline" || continue
		kill "$pid" 2>/dev/null || :
	done
}

tell_of_those_there() {
	for file in "$places"/*.port; do
		place=${file%.port}
		read -r question 2>/dev/null <"$file" || continue
		if ! kill -0 "${place##*/}" 2>/dev/null; then
			rm -f "$file"
		elif [ -p "$place" ]; then
			printf 'waiting %s\n' "$question"
		else
			printf 'there %s\n' "$question"
		fi
	done
	echo all
}

pass_on() {
	while read -r line <&4; do
		kill -0 "$$" 2>/dev/null || exit # who takes the answers was killed; the next one finds the question
		printf '%s\n' "$line"
	done
}

# A script makes its FIFO before it looks whether we are there, so none is forgotten.
leave() {
	printf 'gone\n' >"$places/served"
	for place in "$places"/[0-9]*; do
		[ ! -p "$place" ] || printf 'told\n' 1<>"$place"
	done
	# KILL, since a shell that was forked a moment ago still has our trap, and would forget a TERM with it.
	[ -z "$reader" ] || kill -KILL "$reader" 2>/dev/null || :
}

printf 'kernel %s\n' "$(uname -r)"
# The container's command makes the directory, `served` last, and may have begun a moment ago.
until [ -e "$places/served" ]; do sleep 0.1; done
end_earlier
exec 4<>"$places/asked"
printf '%s\n' "$2 $3" >"$places/addresses"
trap leave EXIT
trap 'exit 0' HUP INT TERM
printf '%s\n' "$$" >"$places/served"
tell_of_those_there
pass_on &
reader=$!
printf '%s\n' "$$ $reader" >"$places/served"
while read -r pid answer; do
	[ ! -p "$places/$pid" ] || printf '%s\n' "$answer" 1<>"$places/$pid"
done
