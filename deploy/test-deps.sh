#!/usr/bin/env bash
# Installs the Debian packages the tests need: the guests' kernel, real clients, decoders, what checks the unit. Needs
# root. It also fetches promtool, which tests the alerts, into target/tools, out of Debian's package of Prometheus:
# installing that would start a server.
set -euo pipefail
packages=(user-mode-linux ppp xl2tpd busybox-static iproute2 iputils-ping iperf3 tcpdump tshark nftables
    procps psmisc curl jq systemd libcap2-bin)
tools=$(dirname "$0")/../target/tools

fetch_promtool() {
    local folder
    folder=$(mktemp -d)
    (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq prometheus >/dev/null) &&
        dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool &&
        install -D -m 755 "$folder/usr/bin/promtool" "$tools/promtool"
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
# The tests say so where they go without it.
if ! command -v promtool >/dev/null && [ ! -x "$tools/promtool" ]; then
    fetch_promtool 2>/dev/null || { apt-get update -qq && fetch_promtool; } || echo "promtool could not be fetched: the alerts are checked without it" >&2
fi
