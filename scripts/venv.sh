#!/bin/sh
# venv.sh FOLDER REQUIREMENTS: installs the pinned packages in a Python environment. Does nothing if they are
# installed.
set -eu
. "${0%/*}/installed.sh"
folder=$1 requirements=$2

if ! command -v python3 >/dev/null; then
    "${0%/*}/debian.sh" python3 python3-venv
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    "${0%/*}/debian.sh" python3-venv
fi

# The scripts of an environment name its interpreter and its folder, so it is valid only for these.
want=$(python3 --version; pwd -P; cat "$requirements")
is_installed "$folder" "$want" && exit 0

echo "installing $(grep -v '^#' "$requirements" | tr '\n' ' ')into $folder"
rm -rf "$folder"
python3 -m venv "$folder"
PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    "$folder/bin/pip" install --quiet -r "$requirements"
mark_installed "$folder" "$want"
