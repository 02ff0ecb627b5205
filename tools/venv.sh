#!/bin/sh
# venv.sh DIR: a virtual environment in DIR, with $PYTHON (python3) of at least 3.11.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2
    exit 1
}
rm -rf "$1"
# Debian and Ubuntu ship the venv module without its installer, in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing $package, which this Python needs for virtual environments"
    $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "$package" || {
        echo "could not install $package; install it by hand and try again" >&2
        exit 1
    }
fi
exec "$python" -m venv "$1"
