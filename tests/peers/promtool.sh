#!/bin/sh
# Prints the path of promtool, fetching it once out of Debian's `prometheus` package.
# Kept in ${XDG_CACHE_HOME:-~/.cache}/pulseops-edge/peers; nothing is installed on the machine.
set -eu

if command -v promtool; then
    exit 0
fi
peers="${XDG_CACHE_HOME:-$HOME/.cache}/pulseops-edge/peers"
promtool="$peers/prometheus/usr/bin/promtool"
if [ ! -x "$promtool" ]; then
    mkdir -p "$peers"
    work=$(mktemp -d "$peers/prometheus.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # apt's sandbox user could not write into a folder of ours.
    (
        cd "$work"
        fetch() { apt-get -q -o APT::Sandbox::User=root download prometheus; }
        fetch || { apt-get -q update && fetch; }
    ) >&2
    dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
    rm -rf "$peers/prometheus"
    mv "$work/root" "$peers/prometheus"
fi
echo "$promtool"
