#!/bin/sh
# venv.sh FOLDER REQUIREMENTS: a Python environment that holds what the file pins. Does nothing when it already does.
set -eu
folder=$1 requirements=$2

if ! command -v python3 >/dev/null; then
    "${0%/*}/debian.sh" python3 python3-venv
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    "${0%/*}/debian.sh" python3-venv
fi

# An environment is good for these requirements, this interpreter and this place only: its scripts name both.
want=$(python3 --version; pwd -P; cat "$requirements")
[ "$(cat "$folder/.made-of" 2>/dev/null)" = "$want" ] && exit 0

echo "installing $(grep -v '^#' "$requirements" | tr '\n' ' ')into $folder"
rm -rf "$folder"
python3 -m venv "$folder"
PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore "$folder/bin/pip" install --quiet -r "$requirements"
# Last, so that an interrupted run is not taken for a finished one.
echo "$want" >"$folder/.made-of"
