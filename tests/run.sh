#!/usr/bin/env bash
# Runs the tests of a tree: run.sh PRESET JOBS [options of ctest]. Most of them wait for processes and deadlines, so JOBS may exceed the cores.
# A few that fail beside others run once more, each alone: whoever fails again fails the run, and whoever passes is named at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: run.sh PRESET JOBS [options of ctest]}
jobs=${2:?usage: run.sh PRESET JOBS [options of ctest]}
shift 2
tree=build/$preset
failed=$tree/Testing/Temporary/LastTestsFailed.log
most=3
rm -f "$failed" "$tree/ctest.log" "$tree/again.log"

ctest --test-dir "$tree" -j "$jobs" --output-on-failure --no-tests=error --output-log "$tree/ctest.log" "$@" && exit 0
[ -s "$failed" ] || exit 1
names=$(cut -d: -f2 "$failed")
[ "$(wc -w <<<"$names")" -le $most ] || exit 1
echo "run.sh: failed beside others, now alone: ${names//$'\n'/ }"
ctest --test-dir "$tree" --rerun-failed --output-on-failure --no-tests=error --output-log "$tree/again.log" || exit 1
echo "run.sh: unsteady, failed beside others and passed alone: ${names//$'\n'/ }" | tee -a "$tree/ctest.log"
