# Functions of the scripts that install pinned programs in a folder. These scripts source this file.

# is_installed FOLDER PINS: whether the folder was installed from these pins.
is_installed() {
    [ "$(cat "$1/.made-of" 2>/dev/null)" = "$2" ]
}

# mark_installed FOLDER PINS: the last step of an installation. An interrupted one has no mark.
mark_installed() {
    echo "$2" >"$1/.made-of"
}
