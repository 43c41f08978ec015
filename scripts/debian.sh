#!/bin/sh
# debian.sh PACKAGE …: installs those of these Debian packages that are missing. If none is missing, it prints
# nothing and needs no network.
set -eu

missing=
for package in "$@"; do
    # The status of a removed package whose configuration stayed is "deinstall ok config-files".
    [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing:$missing. This is not a Debian system: install them with its own package manager." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null; then
    root=sudo
else
    echo "missing:$missing. As root: apt-get install$missing" >&2
    exit 1
fi

echo "installing$missing"
# Debian's server package creates a cluster on port 5432 and starts it. A temporary setting prevents that.
# Existing servers stay as they are.
case " $missing " in
*" postgresql-15 "*)
    drop_in=/etc/postgresql-common/createcluster.d/spillway.conf
    trap '$root rm -f "$drop_in"; $root rmdir --ignore-fail-on-non-empty "${drop_in%/*}" 2>/dev/null || :' EXIT
    trap 'exit 1' INT TERM
    $root mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' | $root tee "$drop_in" >/dev/null
    ;;
esac

log=$(mktemp)
# Waits two minutes for another apt process before it fails.
apt() {
    $root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1
}
# shellcheck disable=SC2086 # one word for each package
if ! { apt update && apt install --no-install-recommends --no-upgrade $missing; }; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install$missing. The end of its log is above. The whole log is in $log" >&2
    exit 1
fi
rm -f "$log"
