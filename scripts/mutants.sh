#!/usr/bin/env bash
# Applies each deliberate fault of tests/mutants to a copy of the committed source, and runs the scenario that
# must fail with it. Arguments: prefixes of mutants, such as 03 or 12-no-fence; without arguments all run.
# Fails if a mutant is MISSED or does not compile (BROKEN), or if its scenario is FAILING without the fault.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=target/mutants/source
logs=target/mutants/logs
rm -rf "$copy" "$logs"
mkdir -p "$copy" "$logs"
git archive HEAD | tar -x -C "$copy"

# The target folder is separate: an interrupted run must not leave a mutant as the function's binary. The
# folder may have a binary that is newer than the source of the commit. So `touch` makes the source newer.
touch "$copy"/functions/drain/src/{lib,main}.rs
build() {
    (cd "$copy" && CARGO_TARGET_DIR="$root/target/mutants/target" \
        cargo build --quiet --locked --workspace --bin drain)
}
play() { # scenario, log
    DRAIN_BINARY="$root/target/mutants/target/debug/drain" \
        "$scenarios" --exact "$1" >"$2" 2>&1
}
field() {
    sed -n "s/^$1: //p" "$2" | head -1
}
scenarios=$(cargo test --locked --workspace --test scenarios --no-run 2>&1 |
    sed -n 's/.*Executable.*(\(.*\))$/\1/p')

patches=()
for patch in tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    for wanted in "${@:-}"; do
        case $name in "$wanted"*) patches+=("$patch") && break ;; esac
    done
done

build
# A scenario that fails without the fault, or that does not exist, catches nothing.
declare -A sound=()
for patch in "${patches[@]}"; do
    scenario=$(field Scenario "$patch")
    [ -z "${sound[$scenario]:-}" ] || continue
    sound[$scenario]=no
    log=$logs/${scenario//::/.}
    if play "$scenario" "$log" && grep -q '[1-9][0-9]* passed' "$log"; then sound[$scenario]=yes; fi
done

missed=0
format='%-6s  %-22s  %-7s  %s\n'
printf "$format" hazard mutant result scenario
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    scenario=$(field Scenario "$patch")
    git apply --directory="$copy" "$patch"
    result=caught
    # A mutant that no longer fits the code must not hide the others.
    if ! build 2>"$logs/$name"; then
        result=BROKEN
    elif play "$scenario" "$logs/$name"; then
        result=MISSED
    fi
    if [ "$result" != BROKEN ] && [ "${sound[$scenario]}" = no ]; then result=FAILING; fi
    if [ "$result" != caught ]; then missed=1; fi
    git apply --directory="$copy" --reverse "$patch"
    printf "$format" "$(field Hazard "$patch")" "${name#*-}" "$result" "$scenario"
    # The failed assertion shows whether the fault was the cause. A scenario also fails on a slow machine.
    grep -A 2 -m 1 '^panicked' "$logs/$name" | cut -c 1-160 | sed 's/^/          /' || true
done
echo "the logs of the scenarios are in $logs"
exit "$missed"
