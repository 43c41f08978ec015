#!/usr/bin/env bash
# Puts each deliberate fault of tests/mutants into a copy of the committed source, and plays the scenario that has to notice it.
# Arguments: beginnings of the mutants' names, 03 or 12-no-fence; all when there is none. Fails when a mutant is not caught: MISSED, or
# its scenario is FAILING without it, too.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=target/mutants/source
logs=target/mutants/logs
rm -rf "$copy" "$logs"
mkdir -p "$copy" "$logs"
git archive HEAD | tar -x -C "$copy"

# In a folder of its own, where dependencies are built once more: a build that is interrupted leaves no mutant behind under the
# function's name. What is left there of another run is older than a file that is touched.
touch "$copy"/functions/drain/src/{lib,main}.rs
build() {
    (cd "$copy" && CARGO_TARGET_DIR="$root/target/mutants/target" cargo build --quiet --locked --workspace --bin drain)
}
play() { # scenario, log
    DRAIN_BINARY="$root/target/mutants/target/debug/drain" \
        "$scenarios" --exact "$1" >"$2" 2>&1
}
field() {
    sed -n "s/^$1: //p" "$2" | head -1
}
scenarios=$(cargo test --locked --workspace --test scenarios --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')

patches=()
for patch in tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    for wanted in "${@:-}"; do
        case $name in "$wanted"*) patches+=("$patch") && break ;; esac
    done
done

build
# A scenario that fails anyway notices nothing, and neither does one that is not there.
declare -A sound=()
for patch in "${patches[@]}"; do
    scenario=$(field Scenario "$patch")
    [ -z "${sound[$scenario]:-}" ] || continue
    sound[$scenario]=no
    if play "$scenario" "$logs/${scenario/::/.}" && grep -q '[1-9][0-9]* passed' "$logs/${scenario/::/.}"; then sound[$scenario]=yes; fi
done

missed=0
format='%-6s  %-22s  %-7s  %s\n'
printf "$format" hazard mutant result scenario
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    scenario=$(field Scenario "$patch")
    git apply --directory="$copy" "$patch"
    build
    result=caught
    if play "$scenario" "$logs/$name"; then result=MISSED; fi
    if [ "${sound[$scenario]}" = no ]; then result=FAILING; fi
    if [ "$result" != caught ]; then missed=1; fi
    git apply --directory="$copy" --reverse "$patch"
    printf "$format" "$(field Hazard "$patch")" "${name#*-}" "$result" "$scenario"
    # So that one sees whether it was the fault that was noticed: a machine that is too slow fails a scenario, too.
    grep -A 2 -m 1 '^panicked' "$logs/$name" | cut -c 1-160 | sed 's/^/          /' || true
done
echo "all that the scenarios said is in $logs"
exit "$missed"
