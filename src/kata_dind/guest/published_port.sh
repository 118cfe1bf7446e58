#!/bin/sh
# dockerd starts this in place of docker-proxy, once for each port that a container publishes, and waits on descriptor 3
# for `0`, or for `1` and the reason why not: https://github.com/moby/moby/blob/v28.5.2/cmd/docker-proxy/main_linux.go.
#
# The agent is asked first, and it asks the host. It sees this script's directory, and no program of an image can speak
# to a socket: so questions go through a FIFO, and each script has a FIFO of its own for the answer. That stays open for
# as long as the port is published, also in docker-proxy, so that the agent sees the end of it, whatever that is.
#
# A pod has no agent, but a command of the host's (ports_of_pod.sh), which comes and goes with the process that serves
# the sandbox. It can't see our end, so we stay beside docker-proxy and tell it; and each port has a file with its
# question, from which the next such command learns of it. While there is none, nobody is asked.
set -eu

places=${0%/*}/ports
place='' answer='' kept=''

# The proxy's options; the next ones of Docker are passed on as they are.
parse() {
	protocol='' host_address='' host_port='' container_address='' container_port='' retried=yes option=''
	for word; do
		case $option in
		-proto) protocol=$word ;;
		-host-ip) host_address=$word ;;
		-host-port) host_port=$word ;;
		-container-ip) container_address=$word ;;
		-container-port) container_port=$word ;;
		esac
		# Since Docker 28 dockerd itself listens, and tries no other number when we refuse one that it has chosen.
		[ "$word" != -use-listen-fd ] || retried=no
		option=$word
	done
}

refuse() {
	printf '1\n%s' "$1" >&3
	[ -z "$kept" ] || keep_from_others -D
	[ -z "$place" ] || rm -f "$place" "$place.port"
	[ "$answer" != told ] || tell_end
	exit 1
}

# Prints nothing; what the agent says is in `answer` and `detail`.
ask() {
	place=$places/$$
	[ ! -e "$place" ] || rm -f "$place"
	mkfifo -m 0600 "$place" || refuse "kata-dind: cannot make $place"
	exec 5<>"$place"
	question="$$ $protocol $host_address $host_port $container_address $container_port $retried"
	if [ -e "$places/served" ]; then
		printf '%s\n' "$question" >"$place.port"
		read -r server _ <"$places/served" || server=$$ # before the first such command, which is waited for
		if [ "$server" = gone ] || ! kill -0 "$server" 2>/dev/null; then
			answer=told detail=''
			return
		fi
	fi
	# For reading as well: else we would wait here where nobody reads.
	printf '%s\n' "$question" 1<>"$places/asked"
	read -r answer detail <&5
}

# Runs as long as the port is published.
serve() {
	[ -z "$proxy" ] || exec "$proxy" "$@"
	# The host's connections come through dockerd's rules for its firewall, which need no proxy.
	trap '[ "$answer" = yes ] || tell_end; exit 0' INT TERM
	printf '0\n' >&3
	exec 3>&-
	while :; do
		read -r _ <&5 || :
	done
}

# A port that is published on a loopback address only: the host's connections come to the guest's own address, so there
# is a second proxy there. It reports to our FIFO, which it does not keep.
serve_also_at() {
	address=$1
	shift
	[ -n "$proxy" ] || refuse "docker-proxy is missing in this image, and a port at $host_address needs it"
	"$proxy" -proto "$protocol" -host-ip "$address" -host-port "$host_port" -container-ip "$container_address" \
		-container-port "$container_port" 3>&5 5>&- &
	second=$!
	read -r word <&5
	[ "$word" = 0 ] || refuse "listen $protocol $address:$host_port: bind: address already in use"
	serve_beside "$@"
	kill "$second" 2>/dev/null || :
	wait "$second" || :
}

serve_beside() {
	"$proxy" "$@" 5>&- &
	first=$!
	trap 'kill "$first" 2>/dev/null || :' INT TERM
	exec 3>&- 4>&-
	# The first wait ends with the signal that stops us.
	wait "$first" || wait "$first" || :
}

# In a pod.
serve_and_tell() {
	rm -f "$place"
	own='' host=''
	[ ! -e "$places/addresses" ] || read -r own host <"$places/addresses" || :
	find_whether_reached
	if [ -z "$reached" ]; then
		keep_from_others -I
		serve_also_at "$own" "$@"
		keep_from_others -D
	elif [ -n "$proxy" ]; then
		serve_beside "$@"
	else
		serve "$@"
	fi
	tell_end
}

tell_end() {
	rm -f "$place.port"
	printf '%s end\n' "$$" 1<>"$places/asked"
}

# Whether what comes to the pod's own address, as the host's connections do, arrives at this port without our help.
find_whether_reached() {
	reached=''
	case $host_address,$own in
	0.0.0.0,* | "$own,$own" | *, | ::,*:*) reached=yes ;;
	::,*) # mostly published on IPv4 as well, a moment earlier
		for other in "$places"/*.port; do
			read -r _ question <"$other" || continue
			case $question in "$protocol 0.0.0.0 $host_port "*) reached=yes ;; *) ;; esac
		done
		;;
	*) ;;
	esac
}

# What is published on a loopback address is for this host alone, while other pods reach our own address as well.
keep_from_others() {
	case $own in *:*) filter=ip6tables ;; *) filter=iptables ;; esac
	rule="INPUT -p $protocol -d $own --dport $host_port ! -s $host -j DROP"
	# shellcheck disable=SC2086 # these are words
	said=$("$filter" -w "$1" $rule 2>&1) || [ "$1" = -D ] ||
		refuse "kata-dind: $host_address:$host_port can't be kept from other pods: $filter: $said"
	kept=yes
}

# Where Docker 28 and later look for it first; before that it is on the PATH.
PATH=/usr/local/libexec/docker:/usr/libexec/docker:$PATH
parse "$@"
proxy=$(command -v docker-proxy) || proxy=''
if [ ! -p "$places/asked" ] || [ ! -w "$places/asked" ]; then # as for the dockerd of a rootless image
	[ -n "$proxy" ] || refuse 'docker-proxy is missing in this image'
	exec "$proxy" "$@"
fi
ask
case $answer in
yes) serve "$@" ;;
also) serve_also_at "$detail" "$@" ;;
told) serve_and_tell "$@" ;;
*) refuse "$detail" ;;
esac
