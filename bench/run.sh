#!/usr/bin/env bash
# Runs every bench of the release build (or those named) and keeps its figures in bench/results/NAME.json.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p bench/results
failed=0 count=0
for bench in build/release/bin/bench_*; do
  [ -x "$bench" ] || continue
  name=$(basename "$bench")
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  count=$((count + 1))
  echo "== $name"
  "$bench" --json "bench/results/$name.json" || { echo "$name: FAILED"; failed=1; }
done
[ $count -gt 0 ] || { echo "no benches in build/release/bin: run make release" >&2; exit 1; }
exit $failed
