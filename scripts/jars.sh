#!/bin/sh
# jars.sh FOLDER POM: installs the libraries that POM pins, and their dependencies. Does nothing if they are
# installed.
set -eu
. "${0%/*}/installed.sh"
folder=$1 pom=$2

want=$(cat "$pom")
is_installed "$folder" "$want" && exit 0

pinned='s|.*<artifactId>\(.*\)</artifactId><version>\(.*\)</version>.*|\1 \2|p'
echo "installing $(sed -n "$pinned" "$pom" | paste -sd, | sed 's/,/, /g') into $folder"
rm -rf "$folder"
mvn --quiet --batch-mode -Dstyle.color=never --file "$pom" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$PWD/$folder"
mark_installed "$folder" "$want"
