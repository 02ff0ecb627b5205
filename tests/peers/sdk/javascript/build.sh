#!/bin/sh
# Installs the SDK of this folder once and prints the app's path, to run with `node`.
#
# It is kept outside the tree, in ${XDG_CACHE_HOME:-~/.cache}/pulseops-edge/peers, under the hash of
# what it is made of. Needs Node.js 20 or newer with npm. 62 MB, five seconds.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hash=$(cat "$here/app.js" "$here/package.json" "$here/package-lock.json" | sha256sum | cut -c1-16)
peers=${XDG_CACHE_HOME:-$HOME/.cache}/pulseops-edge/peers
folder=$peers/sdk-javascript-$hash

if [ ! -d "$folder" ]; then
    for tool in node npm; do
        command -v $tool >/dev/null 2>&1 && continue
        echo "build.sh: the JavaScript SDK needs Node.js, and there is no '$tool' in PATH;" \
            "install it from https://nodejs.org" >&2
        exit 69
    done
    mkdir -p "$peers"
    partial=$folder.$$
    trap 'rm -rf "$partial"' EXIT
    mkdir "$partial"
    cp "$here/app.js" "$here/package.json" "$here/package-lock.json" "$partial"
    # No install script of a package runs: none of these needs one.
    (cd "$partial" && npm ci --ignore-scripts --no-audit --no-fund --silent >&2)
    # Two builds at once must not see each other's half: the last step is a rename. The one that
    # comes second finds a folder there, and the first one's is as good.
    mv -T "$partial" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder/app.js"
