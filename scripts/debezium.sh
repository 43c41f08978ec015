#!/bin/sh
# debezium.sh FOLDER VERSION SHA256: installs Debezium Server. Its archive must have this checksum. Does
# nothing if it is installed.
set -eu
. "${0%/*}/installed.sh"
folder=$1 version=$2 sha256=$3

want="$version $sha256"
is_installed "$folder" "$want" && exit 0

echo "installing Debezium Server $version into $folder (fetches 800 MB, keeps 450 MB)"
rm -rf "$folder"
mkdir -p "$folder"
# Version 2.10 of the plugin copies an archive without its parent's project file, which was not published.
mvn --quiet --batch-mode -Dstyle.color=never org.apache.maven.plugins:maven-dependency-plugin:2.10:copy \
    -Dartifact="io.debezium:debezium-server-dist:$version:tar.gz" -DoutputDirectory="$PWD/$folder"
archive="$folder/debezium-server-dist-$version.tar.gz"
echo "$sha256  $archive" | sha256sum --check --quiet
# Connectors of other databases are left out.
tar -xzf "$archive" -C "$folder" --strip-components=1 --wildcards '*-runner.jar' 'debezium-server/lib/*'
rm -f "$archive"
mark_installed "$folder" "$want"
