#!/bin/sh
# Builds h2spec, as pinned in go.mod, once and prints where the binary is: in
# ${XDG_CACHE_HOME:-~/.cache}/pulseops-edge/peers, under the hash of what it is made of.
# Needs Go (https://go.dev/dl) alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hash=$(cat "$here/go.mod" "$here/go.sum" | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pulseops-edge/peers
binary=$folder/h2spec-$hash

if [ ! -x "$binary" ]; then
    if ! command -v go >/dev/null 2>&1; then
        echo "build.sh: h2spec needs the Go toolchain, and there is no 'go' in PATH;" \
            "install it from https://go.dev/dl" >&2
        exit 69
    fi
    mkdir -p "$folder"
    # Two builds at once must not see each other's half: the last step is a rename.
    partial=$binary.$$
    trap 'rm -f "$partial"' EXIT
    (cd "$here" && CGO_ENABLED=0 nice go build -trimpath -ldflags='-s -w' -o "$partial" \
        github.com/summerwind/h2spec/cmd/h2spec >&2)
    mv "$partial" "$binary"
fi
echo "$binary"
