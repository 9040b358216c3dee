# What an operator does with the package, in a guest with systemd: each line that begins with FAILED is a failure.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
config=/etc/sluice/sluice.toml

# check NAME SCRIPT: whether it succeeds.
check() {
    if said=$(sh -c "$2" 2>&1); then echo "ok: $1"; else echo "FAILED: $1: $said"; fi
}
# await NAME SCRIPT: whether it succeeds within 30 s.
await() {
    tries=0
    while ! sh -c "$2" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || { check "$1" "$2"; return; }
        sleep 0.2
    done
    echo "ok: $1"
}
property() { systemctl show -p "$1" --value sluice; }
keeper() { property MainPID; }
worker() { pgrep -P "$(keeper)"; }

# A database of its own: reading the host's takes most of a minute.
mkdir -p /tmp/dpkg/info /tmp/dpkg/updates
: >/tmp/dpkg/status
dpkg="dpkg --admindir=/tmp/dpkg --log=/dev/null --force-depends --force-unsafe-io"

$dpkg -i /mnt/one/*.deb >/dev/null 2>&1
check "nothing starts by itself" '! systemctl is-enabled sluice && ! systemctl is-active sluice'
# This kernel has no nftables for both families.
sed -i 's/^masquerade = true.*/masquerade = false/' $config

check "start" 'systemctl enable --now sluice'
check "ready" 'sluice status | grep -q "^ready: yes"'
check "a user is added by root" 'sluice users add alice --generate'
check "the user named in the unit runs all of it" "[ \"\$(ps -o user= -p $(keeper),$(worker) | sort -u)\" = sluice ]"
check "three capabilities are left" "grep -q '^CapEff:.*0000000000003400\$' /proc/$(worker)/status"
check "forwarding is on" '[ "$(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding | sort -u)" = 1 ]'
check "the device is up" 'ip -br addr show dev sluice0 | grep -q 10.64.0.1/32'
check "the state is for nobody else" '[ "$(stat -c "%U %a" /var/lib/sluice)" = "sluice 700" ]'
check "the service manager hears of sessions" 'systemctl status sluice | grep -q "0 sessions in 0 tunnels"'

check "reload" 'systemctl reload sluice'
await "active after it" 'systemctl is-active sluice'
echo "x = 1" >>$config
check "a reload of a wrong file fails" '! systemctl reload sluice'
check "and changes nothing" 'systemctl is-active sluice && sluice status | grep -q "^ready: yes"'
sed -i '$d' $config

before=$(worker)
kill -KILL "$before"
await "another worker after a crash" "sluice status | grep -q 'anew 1 times'"
check "the service itself did not restart" "[ $(property NRestarts) = 0 ]"
before=$(keeper)
$dpkg -i /mnt/two/*.deb >/dev/null 2>&1
check "an upgrade leaves it alone" "[ $(keeper) = $before ] && sluice status | grep -q 'anew 1 times'"
# The answer may be lost with the worker that should give it.
sluice restart
await "the new program after a restart" "sluice status | grep -q 'anew 2 times'"
check "under the keeper of before" "[ $(keeper) = $before ]"
check "the worker runs the new file" "! readlink /proc/$(worker)/exe | grep -q deleted"
kill -KILL "$before"
await "the service restarts when the keeper is gone" '[ "$(systemctl show -p NRestarts --value sluice)" = 1 ] && sluice status'

check "stop" 'systemctl stop sluice'
check "in good order" "[ $(property Result) = success ] && ! ip link show dev sluice0"
echo "x = 1" >>$config
check "a wrong configuration does not start" '! systemctl start sluice'
check "and is not tried again" "[ $(property ExecMainStatus) = 2 ] && [ $(property ActiveState) = failed ]"
sed -i '$d' $config
check "start again" 'systemctl start sluice && sluice users show alice'
check "remove" "$dpkg -r sluice && ! pgrep -x sluice"
check "users stay" 'grep -q alice /var/lib/sluice/users.toml && [ -f /etc/sluice/sluice.toml ]'
check "purge" "$dpkg -P sluice && ! [ -e /var/lib/sluice ] && ! [ -e /etc/sluice ]"
echo end
