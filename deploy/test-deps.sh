#!/usr/bin/env bash
# Installs the Debian packages the tests need: the guests' kernel, real clients, decoders. Needs root.
set -euo pipefail
packages=(user-mode-linux ppp xl2tpd busybox-static iproute2 iputils-ping iperf3 tcpdump tshark nftables
    procps psmisc curl jq)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing and only root can install them: ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=600 update -qq
apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
