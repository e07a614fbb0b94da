#!/bin/sh
# usage: systemd_machine.sh FOLDER PYTHON VENV PROJECT   (root)
#
# Boots this machine's own systemd as process 1 of fresh namespaces, over a copy-on-write view of
# this machine's files: what is changed inside is gone afterwards.  It starts nothing by itself but
# the journal.  FOLDER is for its files.  Ends, and takes its cgroups along, when systemd has ended.
# /opt/uproxy inside has the Python installation, the virtual environment and the project, because
# services that are locked in don't see home folders.
set -eu
folder=$1

if [ "${2:-}" != inside ]; then
    # a cgroup of its own, so that systemd doesn't touch this machine's
    mount --make-rprivate /
    mkdir "$folder/cgroups"
    mount -t cgroup2 cgroup2 "$folder/cgroups"
    above=$folder/cgroups$(sed -n 's/^0:://p' /proc/self/cgroup)
    own=$above/uproxy-systemd-$$
    mkdir "$own"
    ( echo 0 > "$own/cgroup.procs"
      exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net \
          "$0" "$folder" inside "$2" "$3" "$4" ) || true
    find "$own" -depth -type d -exec rmdir {} +
    exit
fi
python=$3 venv=$4 project=$5

mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mkdir -p opt/uproxy/python opt/uproxy/venv opt/uproxy/project
mount --rbind "$python" opt/uproxy/python
mount --bind "$venv" opt/uproxy/venv
mount --bind "$project" opt/uproxy/project

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net  # of its own network namespace
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for name in null zero full random urandom tty; do
    : > "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done

# nothing of this machine's own services
rm -rf etc/systemd/system usr/lib/systemd/system/*.target.wants etc/fstab
mkdir -p etc/systemd/system/sockets.target.wants
ln -s /usr/lib/systemd/system/systemd-journald.socket etc/systemd/system/sockets.target.wants/
# not chroot: services with a view of their own of the files need the root to be a mount
mkdir old
pivot_root . old
cd /
umount --lazy old
mount --make-rshared /  # credentials are mounted elsewhere and moved
exec env -i container=uproxy-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=0
