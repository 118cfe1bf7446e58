#!/bin/sh
# In the place of a pod whose container has the user `rootless`: what root has put on the data root until here is the
# volume of that pod, and these are its devices. What follows is done without root, the guest entrypoint included.
set -eu
user=1000 home=/home/rootless run=/run/user/1000
mkdir -p "$run" /dev/net
chown $user:$user "$run" /var/lib/docker
mount --bind /var/lib/docker $home/.local/share/docker
[ -c /dev/net/tun ] || mknod -m 0666 /dev/net/tun c 10 200
[ -c /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229
ln -sf user/1000/docker.sock /run/docker.sock
for variable in $(env | sed -n 's/^\(KATA_DIND_[A-Z_]*\)=.*/\1/p'); do
	unset "$variable"
done
export HOME=$home USER=rootless XDG_RUNTIME_DIR=$run
cd $home
exec setpriv --reuid=$user --regid=$user --init-groups sh /run/kata-dind/entrypoint.sh -- dockerd-entrypoint.sh "$@"
