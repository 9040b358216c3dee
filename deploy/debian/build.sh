#!/usr/bin/env bash
# Builds the Debian package: build.sh BINARY DIRECTORY writes DIRECTORY/sluice_VERSION_ARCHITECTURE.deb and prints its
# name. Needs dpkg-deb alone. The same tree and SOURCE_DATE_EPOCH give the same package, octet by octet. COMPRESSION is
# what dpkg-deb calls -Z: xz, or none for a quick look.
set -euo pipefail
umask 022
[ $# = 2 ] || { echo "usage: $0 BINARY DIRECTORY" >&2; exit 2; }
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/../.."
[ -x "$binary" ] || { echo "$binary is no program" >&2; exit 2; }

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# What comes before a release sorts before it: 1.0.0-rc.1 becomes 1.0.0~rc.1.
version=${version/-/\~}
architecture=$(dpkg --print-architecture)
# The newest symbols of the C library that the binary asks for say which one it needs.
libc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -uV | tail -n 1 || true)
libc=${libc:+ (>= ${libc#GLIBC_})}
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
fi
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
# install_file MODE SOURCE TARGET
install_file() { install -D -m "$1" "$2" "$root/$3"; }

install_file 755 "$binary" usr/bin/sluice
install_file 644 deploy/systemd/sluice.service usr/lib/systemd/system/sluice.service
install_file 644 deploy/systemd/sluice.sysusers usr/lib/sysusers.d/sluice.conf
# The configuration may hold tunnel secrets: not for everyone, and for the gateway's group by postinst.
install_file 640 deploy/config/first.toml etc/sluice/sluice.toml
chmod 750 "$root/etc/sluice"
for file in deploy/config/*.toml deploy/systemd/drop-in.conf.example deploy/prometheus/*.yml deploy/grafana/*.json; do
    install_file 644 "$file" "usr/share/doc/sluice/examples/$(basename "$file")"
done
install_file 644 gateway/docs/operations.md usr/share/doc/sluice/operations.md
install_file 644 gateway/docs/threat-model.md usr/share/doc/sluice/threat-model.md
install_file 644 gateway/docs/openapi.json usr/share/doc/sluice/openapi.json
install_file 644 CHANGELOG.md usr/share/doc/sluice/changelog
install_file 644 LICENSE usr/share/doc/sluice/copyright

for script in postinst prerm postrm; do
    install_file 755 "deploy/debian/$script" "DEBIAN/$script"
done
install_file 644 deploy/debian/conffiles DEBIAN/conffiles
(cd "$root" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k 2) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/md5sums"
size=$(find "$root/etc" "$root/usr" -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@LIBC@/$libc/" -e "s/@SIZE@/$size/" \
    deploy/debian/control.in >"$root/DEBIAN/control"
chmod 644 "$root/DEBIAN/control"

find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
package=$out/sluice_${version}_${architecture}.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
echo "$package"
