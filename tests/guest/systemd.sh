#!/bin/sh
# PID 1 of a user-mode-linux guest that becomes systemd. The host's file system is the root, with a layer in memory over
# it, so that packages can be installed. JOBDIR is /mnt, read-write: its script.sh is run as a service once the system
# is up, and answers in out.log. The file `finished` is there when it has ended.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
mkdir /tmp/job /tmp/host /tmp/over /tmp/root
mount -t hostfs -o "$JOBDIR" none /tmp/job
exec >/tmp/job/init.log 2>&1
modules=/usr/lib/uml/modules/$(uname -r)/kernel
for module in lib/crc-ccitt net/ipv6/ipv6 drivers/net/tun fs/overlayfs/overlay; do
    busybox insmod "$modules/$module.ko" || echo "insmod $module failed"
done
mount -t hostfs -o / none /tmp/host
mount -t tmpfs -o size=90% tmpfs /tmp/over
mkdir /tmp/over/upper /tmp/over/work
root=/tmp/root
mount -t overlay -o lowerdir=/tmp/host,upperdir=/tmp/over/upper,workdir=/tmp/over/work overlay "$root"
# Nothing of what the host itself starts, nor of a gateway it has.
mount -t tmpfs tmpfs "$root/etc/systemd/system"
mount -t tmpfs tmpfs "$root/usr/lib/systemd/system-generators"
rm -rf "$root/var/lib/sluice" "$root/etc/sluice"
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-hwdb-update.service systemd-journal-flush.service \
    systemd-random-seed.service systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service kmod.service \
    systemd-modules-load.service systemd-remount-fs.service networking.service apparmor.service; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
cat >"$root/etc/systemd/system/script.service" <<'U'
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh /mnt/script.sh
ExecStopPost=/bin/sh -c 'sync; touch /mnt/finished; busybox poweroff -f'
StandardOutput=file:/mnt/out.log
StandardError=inherit
U
cat >"$root/etc/systemd/system/script.target" <<'U'
[Unit]
Requires=basic.target
Wants=script.service
After=basic.target
U
mkdir -p "$root/mnt"
mount --bind /tmp/job "$root/mnt"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t devtmpfs dev "$root/dev"
# As udev makes it.
mkdir -p "$root/dev/net"
[ -e "$root/dev/net/tun" ] || mknod "$root/dev/net/tun" c 10 200
chmod 666 "$root/dev/net/tun"
exec chroot "$root" /lib/systemd/systemd --unit=script.target --log-target=console --show-status=0
