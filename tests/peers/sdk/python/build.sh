#!/bin/sh
# Installs the SDK of this folder once and prints the Python that has it.
#
# It is kept outside the tree, in ${XDG_CACHE_HOME:-~/.cache}/pulseops-edge/peers, under the hash of
# what it is made of. Needs Python 3.11 or newer. 59 MB, five seconds.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hash=$(sha256sum <"$here/requirements.txt" | cut -c1-16)
peers=${XDG_CACHE_HOME:-$HOME/.cache}/pulseops-edge/peers
folder=$peers/sdk-python-$hash

if [ ! -d "$folder" ]; then
    mkdir -p "$peers"
    partial=$folder.$$
    trap 'rm -rf "$partial"' EXIT
    "$here/../../../../tools/venv.sh" "$partial" >&2
    "$partial/bin/python" -m pip --disable-pip-version-check install -q \
        --no-deps --only-binary :all: -r "$here/requirements.txt" >&2
    # Two builds at once must not see each other's half: the last step is a rename. The one that
    # comes second finds a folder there, and the first one's is as good.
    mv -T "$partial" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder/bin/python"
