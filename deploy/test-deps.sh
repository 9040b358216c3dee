#!/usr/bin/env bash
# Installs the Debian packages the tests and measurements need, and those that it is given besides: the guests' kernel,
# real clients, decoders, what checks the unit. Needs root. It also fetches programs out of packages whose installation
# would start a server, into target/tools: promtool, which tests the alerts, the SOCKS servers that the gateway is measured
# beside and goes through, HAProxy, which stands in front of it, a KDC, an SSH server and redsocks.
set -euo pipefail
packages=(user-mode-linux ppp xl2tpd pptp-linux busybox-static iproute2 iputils-ping iperf3 tcpdump tshark nftables
    procps psmisc curl jq systemd libcap2-bin libwrap0 openssl util-linux tinyproxy-bin liblua5.3-0
    libopentracing-c-wrapper0 libkrb5-dev krb5-user libkdb5-10 libkadm5srv-mit12 libverto-libev1 python3-gssapi
    strace faketime ncat openssh-client proxychains4 dante-client inetutils-ftp python3-pyftpdlib python3-socks
    libevent-core-2.1-7 "$@")
tools=$(dirname "$0")/../target/tools

# Fetches the program PATH out of PACKAGE.
fetch() {
    local folder
    folder=$(mktemp -d)
    (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq "$1" >/dev/null) &&
        dpkg-deb --fsys-tarfile "$folder/$1"_*.deb | tar -x -C "$folder" ".$2" &&
        install -D -m 755 "$folder$2" "$tools/$(basename "$2")"
    local outcome=$?
    rm -rf "$folder"
    return $outcome
}

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; then
    echo "these packages are missing and only root can install them: ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
if [ ${#missing[@]} -gt 0 ]; then
    apt-get -o DPkg::Lock::Timeout=600 update -qq
    apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
# The tests of the alerts say so where they go without it; nothing else goes without its own.
for wanted in prometheus:/usr/bin/promtool microsocks:/usr/bin/microsocks dante-server:/usr/sbin/danted \
    haproxy:/usr/sbin/haproxy krb5-kdc:/usr/sbin/krb5kdc krb5-kdc:/usr/sbin/kdb5_util \
    krb5-kdc:/usr/lib/"$(uname -m)"-linux-gnu/krb5/plugins/kdb/db2.so krb5-admin-server:/usr/sbin/kadmin.local \
    openssh-server:/usr/sbin/sshd redsocks:/usr/sbin/redsocks; do
    package=${wanted%%:*} path=${wanted#*:}
    if ! command -v "$(basename "$path")" >/dev/null && [ ! -x "$tools/$(basename "$path")" ]; then
        fetch "$package" "$path" 2>/dev/null || { apt-get update -qq && fetch "$package" "$path"; } ||
            echo "$(basename "$path") could not be fetched: what needs it goes without it" >&2
    fi
done
