#!/bin/sh
# Builds or installs the real peers before the tests. A peer that cannot be had here is skipped by
# its tests, unless REQUIRE_PEERS=1: then it is an error.
set -eu
peers=$(dirname "$0")/../tests/peers
for build in collector/build.sh promtool.sh \
    sdk/python/build.sh sdk/javascript/build.sh sdk/go/build.sh \
    sdk/java/build.sh h2spec/build.sh; do
    "$peers/$build" >/dev/null && continue
    [ "${REQUIRE_PEERS:-}" = 1 ] && exit 1
    echo "peers: $build failed, its tests will be skipped" >&2
done
