"""What the official `docker:dind` images have: Alpine's busybox, and the packages of their Dockerfile. No util-linux.

Debian's busybox and programs stand in for Alpine's, where Debian has them under names that Alpine has, too.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_dind.host.process import require_tool, run

_APPLETS = """
gunzip zcat bunzip2 bzcat unlzma lzcat lzma unxz xzcat bzip2 cpio gzip lzop unlzop lzopcat tar unzip
basename cat chgrp chmod chown chroot cksum comm cp cut date dd df dirname dos2unix unix2dos du echo env expand
unexpand expr factor false fold fsync head hostid id groups install link ln ls md5sum sha1sum sha256sum sha512sum
sha3sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc od paste printenv printf pwd readlink realpath rm rmdir
seq shred shuf sleep sort split stat stty sum sync tac tail tee test [ [[ timeout touch tr true truncate tty uname
arch uniq unlink usleep uudecode base64 uuencode wc whoami yes
chvt clear deallocvt dumpkmap kbd_mode loadfont setfont loadkmap openvt reset resize setconsole setkeycodes
setlogcons showkey pipe_progress run-parts which
awk cmp diff ed patch sed vi find grep egrep fgrep xargs halt poweroff reboot init
add-shell remove-shell addgroup adduser chpasswd cryptpw mkpasswd deluser delgroup getty login nologin passwd su
vlock fsck depmod insmod lsmod modinfo modprobe rmmod
acpid blkdiscard blkid blockdev cal dmesg eject fallocate fatattr fbset fdformat fdisk findfs flock fdflush fstrim
getopt hexdump hd xxd hwclock ionice ipcrm ipcs losetup lspci lsusb mdev mesg mkdosfs mkfs.vfat mkswap more mount
mountpoint nsenter rdate rdev readprofile renice rev linux32 linux64 setpriv setsid swapon swapoff switch_root
umount unshare
adjtimex bbconfig beep conspy crond crontab dc fbsplash hdparm inotifyd less microcom nandwrite nanddump partprobe
raidautorun readahead rfkill setserial strings time ttysize volname watchdog
arp arping brctl ether-wake hostname dnsdomainname ifconfig ifenslave ifup ifdown ip ipaddr iplink iproute iptunnel
iprule ipneigh ipcalc nameif nbd-client nc netstat nslookup ntpd ping ping6 pscan route slattach traceroute
traceroute6 tunctl vconfig wget whois dumpleases udhcpc udhcpc6 makemime reformime sendmail
free fuser iostat kill killall killall5 lsof mpstat nmeter pgrep pkill pidof pmap powertop ps pstree pwdx smemcap
sysctl top uptime watch ash sh klogd logger logread syslogd
"""
APPLETS = frozenset(_APPLETS.split())
"""The applets of Alpine's busybox 1.29; later ones have a few more.

Source: https://github.com/alpinelinux/aports/blob/f246c3719d2737773b0924bad53151ea9fa51e85/main/busybox/busyboxconfig
"""

PACKAGED = (
    *("mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "e2fsck", "fsck.ext4"),  # e2fsprogs
    *("chattr", "lsattr", "debugfs", "dumpe2fs", "e2image", "e2label", "resize2fs", "tune2fs"),  # e2fsprogs-extra
    *("mkfs.xfs", "fsck.xfs", "xfs_repair"),  # xfsprogs, whose other programs are in xfsprogs-extra
    *("iptables", "iptables-save", "iptables-restore", "ip6tables"),  # iptables
    *("openssl", "pigz", "xz", "git"),
    *("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "docker-init", "docker-proxy"),
)
"""What the official Dockerfile installs, as far as this machine has it, but for btrfs-progs, shadow-uidmap and zfs.

Sources: https://github.com/docker-library/docker/blob/master/Dockerfile-dind.template, and `package` and `extra` of
https://github.com/alpinelinux/aports/blob/0168497de43971ecf457fb223a4d4399197526da/main/xfsprogs/APKBUILD
"""

HAS_CALL = os.uname().machine in ("x86_64", "aarch64")
needs_call = pytest.mark.skipif(not HAS_CALL, reason="the entrypoint has no program for system calls of this machine")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian's busybox lacks these two. Alpine's blkid knows no -p and no partition tables, and is silent on what it does
# not know; its flock has short options only.
BLKID = """#!{interpreter}
[ "$1" != -p ] || shift
type=$({program} -p -s TYPE -o value "$1") || exit 0
case $type in ext[234] | xfs | btrfs | swap | vfat | squashfs | crypto_LUKS) ;; *) exit 0 ;; esac
label=$({program} -p -s LABEL -o value "$1") || :
printf '%s:%s UUID="x" TYPE="%s"\\n' "$1" "${{label:+ LABEL=\\"$label\\"}}" "$type"
"""
FLOCK = """#!{interpreter}
case $1 in --*) echo "flock: unrecognized option '$1'" >&2; exit 1 ;; esac
exec {program} "$@"
"""

# What the container would get from its runtime; all of it ends with the mount namespace.
_ENTER = f"""
set -eu
PATH={_PATH} root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount --bind / "$root/host"
mount -o remount,bind,ro "$root/host"
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
while [ "$1" != -- ]; do
	case $1 in
	read-only) mount -o remount,bind,ro "$root" ;;
	tmpfs=*) mount -t tmpfs -o "${{1##*:}}" tmpfs "$root/$(expr "$1" : 'tmpfs=\\(.*\\):')" ;;
	*) mount --rbind "${{1%%=*}}" "$root/${{1#*=}}" ;;
	esac
	shift
done
shift
cd "$root"
unset HOME OLDPWD
exec chroot --userspec="$user:$user" . "$@"
"""


def make_programs(directory: Path, *, host: str = "", interpreter: str = "/bin/dash") -> None:
    """Fill a directory with the programs: links to this machine's, whose root is at `host`, and short scripts."""
    directory.mkdir(parents=True)
    busybox = require_tool("busybox", package="busybox-static")
    (directory / "busybox").symlink_to(f"{host}{busybox}")
    for applet in APPLETS & set(run([busybox, "--list"], timeout_seconds=10).stdout.split()):
        (directory / applet).symlink_to(f"{host}{busybox}")
    for name in PACKAGED:
        if program := shutil.which(name, path=_PATH):
            (directory / name).symlink_to(f"{host}{program}")
    for name, script in (("blkid", BLKID), ("flock", FLOCK)):
        (directory / name).unlink(missing_ok=True)
        program = f"{host}{require_tool(name, package='util-linux')}"
        (directory / name).write_text(script.format(interpreter=interpreter, program=program))
        (directory / name).chmod(0o755)


@dataclass(frozen=True)
class Root:
    """A root file system like the official image's; it has no /tmp, and its programs' libraries are this machine's."""

    path: Path
    shell: str

    def enter(self, *mounts: str, user: int = 0) -> list[str]:
        """Return the beginning of a command that runs in the root, in a mount namespace that the caller has made.

        Mounts, in their order: `HOST=PATH` for a volume, `tmpfs=PATH:OPTIONS`, and `read-only` for the root so far.
        """
        return ["/bin/sh", "-c", _ENTER, "sh", str(self.path), str(user), *mounts, "--"]

    def has(self, name: str) -> bool:
        """Return whether PATH has a program of that name."""
        return (self.path / "usr/bin" / name).is_symlink() or (self.path / "usr/bin" / name).exists()

    def replace(self, name: str, script: str) -> None:
        """Put a script in the place of one of the root's programs."""
        (self.path / "usr/bin" / name).unlink(missing_ok=True)
        (self.path / "usr/bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.path / "usr/bin" / name).chmod(0o755)


def make_root(path: Path, *, entrypoint: str, dialect: str) -> Root:
    """Make the root file system. Debian's busybox has its own applets also where PATH has them not, dash has not."""
    make_programs(path / "usr/bin", host="/host", interpreter="/bin/sh")
    for name in ("dev", "etc", "host", "proc", "run", "stand-ins", "sys", "var/lib/docker", "var/share"):
        (path / name).mkdir(parents=True)
    for name in ("bin", "sbin"):
        (path / name).symlink_to("usr/bin")
    (path / "usr/sbin").symlink_to("bin")
    for directory in (path, path / "usr"):
        for name in ("lib", "lib64"):
            (directory / name).symlink_to(f"/host/usr/{name}")
    (path / "stand-ins/dash").symlink_to(f"/host{require_tool('dash', package='dash')}")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/ash\n")
    (path / "entrypoint.sh").write_text(entrypoint)
    (path / "entrypoint.sh").chmod(0o755)
    return Root(path, "/bin/ash" if dialect == "busybox" else "/stand-ins/dash")
