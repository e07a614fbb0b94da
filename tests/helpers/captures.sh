# usage: bash captures.sh UPROXY      (as root)
# Whether an installed uProxy captures, with the programs that came with it: in a network namespace
# and a cgroup of its own, a connection is refused for want of a proxy; then all of it is undone.
set -eu
if [ $# = 1 ]; then exec unshare --mount --net bash "$0" "$1" inside; fi
uproxy=$1
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
mkdir -p /run/uproxy "$root/captures-$$/workload"
trap 'rmdir "$root/captures-$$/workload" "$root/captures-$$"' EXIT
mount -t tmpfs captures /run/uproxy
mount -t bpf captures /sys/fs/bpf
ip link set lo up
capture() { "$uproxy" capture "$@" --cgroup "$root/captures-$$/workload"; }
connect() (
    echo "$BASHPID" >"$root/captures-$$/workload/cgroup.procs"
    exec bash -c 'exec 9<>/dev/tcp/192.0.2.1/80' 2>&1
)
connect | grep "Network is unreachable"
capture attach --netns "/proc/$$/ns/net" --mode ebpf
capture status | grep attached
# before Linux 5.18 the latter
connect | grep "Connection refused\|Operation not permitted"
capture detach
[ ! -e /sys/fs/bpf/uproxy ]
connect | grep "Network is unreachable"
