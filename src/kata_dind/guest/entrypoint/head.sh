#!/bin/sh
# kata-dind guest entrypoint: gives dockerd a data root that is proven to work, then runs the image's own command.
#
#   entrypoint.sh [--] COMMAND [ARGS...]
#
#   KATA_DIND_DATA_ROOT   auto (default), memory, loop, block or virtiofs
#   KATA_DIND_PATH        the data root; by default what the command or daemon.json says, or Docker's own default
#   KATA_DIND_SIZE        size of a memory or loop data root: 512M, 20G; a larger one than last time grows the disk
#   KATA_DIND_DIR         where the loop kind keeps its disk file; by default in the data root, below the mount
#   KATA_DIND_DEVICE      the block kind's device: its path, or its serial number
#   KATA_DIND_FILESYSTEM  ext4 (default) or xfs: what a blank disk is formatted with
#   KATA_DIND_FALLBACK    none (default), vfs or fuse-overlayfs: what to do when no kind works
#   KATA_DIND_CHECK       1: check the file system in full before it is used
#   KATA_DIND_EXCLUSIVE   1: the disk has no other user, so it needs no protection and no start waits to find that out
#   KATA_DIND_PROGRAM     dockerd, buildkitd, containerd, dagger or earthly; by default what the command starts
#   KATA_DIND_CONTAINERD  auto (default), none, or the path of the root that a system containerd has
#   KATA_DIND_LOG         info (default), or error: how much to say on standard error
#
# Exit status: @EXIT_BAD_INPUT@ for bad input, @EXIT_NO_DATA_ROOT@ when no working data root can be had,
# else the command's own.
# What it found and did is in /run/kata-dind/status.json; without root, in $XDG_RUNTIME_DIR or /tmp.
#
# Runs in dash and busybox ash, with the programs of the official dind images. Starting a process takes an emulated
# guest 20 ms, so functions return their answers in variables, which the comment at each function names in backquotes.
# A good data root is proven with eleven processes.
set -eu
