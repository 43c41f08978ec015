#!/bin/sh
# wal2json.sh SERVER RELEASE: puts wal2json beside the PostgreSQL 17 in the folder SERVER, from the Debian release that has it for 17. That is built
# for a newer C library than this system may have, so the server is made to start with the release's own. Does nothing when it is there already.
set -eu
server=$1 release=$2

[ -e "$server/lib/postgresql/wal2json.so" ] && exit 0
echo "installing wal2json of Debian $release into $server"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$packages/lists/partial" "$packages/archives/partial"

# The system's own archive of Debian, in which only the release is another.
# shellcheck disable=SC2016 # a name of apt's
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v security | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >"$packages/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$packages/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$packages/lists" \
        -o Dir::Cache="$packages" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none "$@" >/dev/null
}
apt update
(cd "$packages" && apt download postgresql-17-wal2json libc6)
for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$packages/files"; done

libraries=$(dirname "$packages"/files/usr/lib/*/libc.so.6)
rm -rf "$server/libc"
cp -a "$libraries" "$server/libc"
[ -e "$server/bin/postgres.program" ] || mv "$server/bin/postgres" "$server/bin/postgres.program"
cat >"$server/bin/postgres" <<'end'
#!/bin/sh
here=${0%/*}
exec "$here"/../libc/ld-linux-*.so.* --argv0 "$0" --library-path "$here/../libc:$here/../lib" "$here/postgres.program" "$@"
end
chmod 755 "$server/bin/postgres"
# Last, so that an interrupted run is not taken for a finished one.
cp "$packages/files/usr/lib/postgresql/17/lib/wal2json.so" "$server/lib/postgresql/"
