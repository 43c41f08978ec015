#!/bin/sh
# wal2json.sh SERVER RELEASE: installs wal2json for the PostgreSQL 17 in the folder SERVER, from a newer
# Debian release. It needs that release's C library, so the server starts with that library. Does nothing if
# it is installed.
set -eu
server=$1 release=$2

[ -e "$server/lib/postgresql/wal2json.so" ] && exit 0
echo "installing wal2json of Debian $release into $server"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$packages/lists/partial" "$packages/archives/partial"

# The system's own Debian archive, with another release.
# shellcheck disable=SC2016 # a name of apt's
archive=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v security | head -n 1)
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] $archive $release main" >"$packages/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$packages/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$packages/lists" -o Dir::Cache="$packages" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none "$@" >/dev/null
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
# The last step: after an interrupted run the library is missing.
cp "$packages/files/usr/lib/postgresql/17/lib/wal2json.so" "$server/lib/postgresql/"
