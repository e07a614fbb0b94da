# usage: bash debian_package.sh      (as root in a virtual machine, with the files in /test)
# Installs, starts, reloads, freezes, upgrades and removes the package; a line for each thing that
# works, and exit code 1 at the first that doesn't.
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
unit=uproxy@orders.service
journal() { journalctl --no-pager --output=cat --unit=$unit; }
failed() {
    echo "failed: $1"
    cat /tmp/said
    systemctl status --no-pager $unit
    journal | tail -20
    exit 1
}
step() {  # NAME COMMAND …: within a minute
    name=$1; shift
    for _ in $(seq 120); do
        if "$@" >/tmp/said 2>&1; then echo "ok: $name"; return; fi
        sleep 0.5
    done
    failed "$name"
}
once() {  # NAME COMMAND …
    name=$1; shift
    if "$@" >/tmp/said 2>&1; then echo "ok: $name"; return; fi
    failed "$name"
}
is() { [ "$(systemctl show --value --property="$2" "$1")" = "$3" ]; }
ready() { curl -sS http://127.0.0.1:15021/readyz | grep -qx ready; }
safe() { systemd-analyze security --no-pager $unit |
    awk '/Overall exposure level/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+$/) found = $i }
         END { print found; exit !(found != "" && found <= 2.0) }'; }
other_pid() { now=$(systemctl show --value --property=MainPID $unit); [ "$now" != 0 ] && [ "$now" != "$1" ]; }
own_user() {  # of those that systemd makes up
    uid=$(stat -c %u "/proc/$(systemctl show --value --property=MainPID $unit)")
    [ "$uid" -ge 61184 ] && [ "$uid" -le 65519 ]
}
reloaded() { journal | grep -q "reloaded"; }
not_said() { ! journalctl --no-pager --output=cat _PID=1 | grep -i "uproxy.*\(unknown\|failed to parse\)"; }

ip link set lo up
once "no Python here" sh -c '! command -v python3'
once "install" dpkg -i /test/uproxy_0.1.0-1_amd64.deb
once "version" /usr/bin/uproxy version
once "man page" sh -c '/usr/bin/uproxy manual | grep -q uproxy'
cp /test/svid.pem /test/svid.key /test/bundle.pem /test/orders.yaml /etc/uproxy
chown root:uproxy /etc/uproxy/svid.key && chmod 640 /etc/uproxy/svid.key
once "start" systemctl start $unit
step "ready" ready
once "a user of its own" own_user
once "security" safe
if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 253 ]; then
    once "systemd knows every word of the units" not_said
fi
once "capture" bash /test/captures.sh /usr/bin/uproxy

sed -i 's/drain_delay: 0s/drain_delay: 0s, idle: 5m/' /etc/uproxy/orders.yaml
once "reload" systemctl reload $unit
step "reloaded" reloaded
once "not restarted" is $unit NRestarts 0

mkdir -p /etc/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=5s\n' >/etc/systemd/system/$unit.d/test.conf
systemctl daemon-reload
systemctl restart $unit
before=$(systemctl show --value --property=MainPID $unit)
kill -STOP "$before"
step "watchdog" is $unit NRestarts 1
step "restarted" other_pid "$before"
step "ready again" ready

before=$(systemctl show --value --property=MainPID $unit)
once "upgrade" dpkg -i /test/uproxy_0.1.1-1_amd64.deb
once "runs on in the new version" other_pid "$before"
step "ready after the upgrade" ready

once "stop" systemctl stop $unit
once "stopped in order" is $unit Result success
sed -i 's/listen: 127.0.0.1:8443/listen: systemd:api/' /etc/uproxy/orders.yaml
once "socket" systemctl start uproxy@orders.socket
once "the port answers before it runs" is $unit ActiveState inactive
exec 9<>/dev/tcp/127.0.0.1/8443
step "a connection starts it" is $unit ActiveState active
step "ready with the socket" ready
exec 9>&-

once "remove" dpkg --remove uproxy
once "not running" sh -c '! pgrep -x uproxy'
once "no unit left" sh -c '! ls /etc/systemd/system/uproxy@.service.d'
once "configuration stays" test -e /etc/uproxy/orders.yaml
once "purge" dpkg --purge uproxy

once "one file" /test/uproxy version
once "for anybody" setpriv --reuid 12345 --clear-groups env -i /test/uproxy version
once "one file captures" bash /test/captures.sh /test/uproxy
echo "all is well"
