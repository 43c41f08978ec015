#!/bin/sh
# jars.sh FOLDER POM: the libraries that the file pins, and what they need. Does nothing when they are there already.
set -eu
folder=$1 pom=$2

want=$(cat "$pom")
[ "$(cat "$folder/.made-of" 2>/dev/null)" = "$want" ] && exit 0

echo "installing $(sed -n 's|.*<artifactId>\(.*\)</artifactId><version>\(.*\)</version>.*|\1 \2|p' "$pom" | paste -sd, | sed 's/,/, /g') into $folder"
rm -rf "$folder"
mvn --quiet --batch-mode -Dstyle.color=never --file "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$PWD/$folder"
# Last, so that an interrupted run is not taken for a finished one.
echo "$want" >"$folder/.made-of"
