#!/bin/sh
# jars.sh FOLDER POM: installs the libraries that POM pins, and their dependencies. Does nothing if they are
# installed.
set -eu
folder=$1 pom=$2

want=$(cat "$pom")
[ "$(cat "$folder/.made-of" 2>/dev/null)" = "$want" ] && exit 0

pinned='s|.*<artifactId>\(.*\)</artifactId><version>\(.*\)</version>.*|\1 \2|p'
echo "installing $(sed -n "$pinned" "$pom" | paste -sd, | sed 's/,/, /g') into $folder"
rm -rf "$folder"
mvn --quiet --batch-mode -Dstyle.color=never --file "$pom" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$PWD/$folder"
# The last step: after an interrupted run the file is missing.
echo "$want" >"$folder/.made-of"
