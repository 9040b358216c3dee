#!/bin/sh
# PID 1 of a user-mode-linux guest. The kernel command line gives GIP (address/prefix length), GGW (default
# gateway or "none"), GIP6 (IPv6 address or "none") and JOBDIR. The host's file system is the root, read-only;
# JOBDIR is /mnt, read-write. Commands come as /mnt/cmd.N and are answered by /mnt/out.N and /mnt/rc.N.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts 2>/dev/null || { mkdir -p /dev/pts && mount -t devpts devpts /dev/pts; }
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/xl2tpd /run/pptp
mount -t hostfs -o "$JOBDIR" none /mnt
mount -t tmpfs tmpfs /etc/ppp
: >/etc/ppp/options
mount -t tmpfs tmpfs /var/log
exec >/mnt/guest.log 2>&1
M=/usr/lib/uml/modules/$(uname -r)/kernel
for m in lib/crc-ccitt net/ipv6/ipv6 drivers/net/slip/slhc drivers/net/ppp/ppp_generic drivers/net/ppp/ppp_async \
    drivers/net/ppp/ppp_synctty drivers/net/ppp/pppox net/ipv6/ip6_udp_tunnel net/ipv4/udp_tunnel \
    net/l2tp/l2tp_core net/l2tp/l2tp_ppp; do
    busybox insmod "$M/$m.ko" || echo "insmod $m failed"
done
mount -t tmpfs tmpfs /tmp
ip link set lo up
ip addr add "$GIP" dev vec0
ip link set vec0 up
[ "$GIP6" = none ] || ip -6 addr add "$GIP6" dev vec0 nodad
[ "$GGW" = none ] || ip route add default via "$GGW"
cat >/etc/ppp/ip-up <<'U'
#!/bin/sh
echo "$1 $4 $5 $DNS1 $DNS2" >>/run/ip-up
U
cat >/etc/ppp/ipv6-up <<'U'
#!/bin/sh
echo "$1 $4 $5" >>/run/ipv6-up
U
chmod +x /etc/ppp/ip-up /etc/ppp/ipv6-up
: >/run/ip-up
: >/run/ipv6-up
touch /mnt/ready
n=1
while [ ! -e /mnt/stop ]; do
    if [ -e /mnt/cmd.$n ]; then
        sh /mnt/cmd.$n >/mnt/out.$n 2>&1 </dev/null
        echo $? >/mnt/rc.$n.part
        mv /mnt/rc.$n.part /mnt/rc.$n
        n=$((n + 1))
    else
        busybox usleep 10000
    fi
done
sync
busybox poweroff -f
