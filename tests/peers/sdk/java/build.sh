#!/bin/sh
# Fetches the SDK of this folder and compiles the app once; prints its class path, to run `java` on.
#
# It is kept outside the tree, in ${XDG_CACHE_HOME:-~/.cache}/pulseops-edge/peers, under the hash of
# what it is made of. Needs a JDK of 17 or newer and Maven. 5 MB, ten seconds.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hash=$(cat "$here/App.java" "$here/pom.xml" | sha256sum | cut -c1-16)
peers=${XDG_CACHE_HOME:-$HOME/.cache}/pulseops-edge/peers
folder=$peers/sdk-java-$hash

if [ ! -d "$folder" ]; then
    for tool in java javac mvn; do
        command -v $tool >/dev/null 2>&1 && continue
        echo "build.sh: the Java SDK needs a JDK and Maven, and there is no '$tool' in PATH;" \
            "apt-get install maven default-jdk-headless" >&2
        exit 69
    done
    mkdir -p "$peers"
    partial=$folder.$$
    trap 'rm -rf "$partial"' EXIT
    mkdir "$partial"
    mvn -q -B -f "$here/pom.xml" -DoutputDirectory="$partial" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies >&2
    javac -encoding UTF-8 -cp "$partial/*" -d "$partial" "$here/App.java" >&2
    # Two builds at once must not see each other's half: the last step is a rename. The one that
    # comes second finds a folder there, and the first one's is as good.
    mv -T "$partial" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder:$folder/*"
