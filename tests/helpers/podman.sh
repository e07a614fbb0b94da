#!/bin/sh
# usage: unshare --mount podman.sh FOLDER podman's arguments …     (root)
# Podman with its images and containers in FOLDER.  In a view of the files of its own it has the
# unified cgroups that crun wants, also on a machine that mounts them in the older ways.
set -eu
folder=$1; shift
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec podman --root "$folder/storage" --runroot "$folder/run" --storage-driver vfs \
    --cgroup-manager cgroupfs --log-level error "$@"
