#!/usr/bin/env bash
# Runs every fuzzer of build/fuzz for some seconds from its corpus, as many at once as there are cores:
# run.sh SECONDS [CORPORA], the new inputs being kept in CORPORA.
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?usage: run.sh SECONDS [CORPORA]}
corpora=${2:-$(mktemp -d)}
findings=build/fuzz/findings
# The same inputs in each run: whoever sees a finding can repeat it, and no change is blamed for what was there before. Other seeds look elsewhere.
seed=${KVLINK_SEED:-1}
mkdir -p "$findings"

run() {
  local name=$1 log=build/fuzz/$1.log
  mkdir -p "$corpora/$name"
  if "build/fuzz/bin/$name" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2560 -print_final_stats=1 \
      -artifact_prefix="$findings/$name-" -seed="$seed" "$corpora/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
    echo "$name: $seconds s, $(sed -n 's/^stat::number_of_executed_units: */runs /p' "$log")"
  else
    local input lines
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    lines="$name: FAILED, input ${input:-none}, log in $log"$'\n'$(grep -m 1 -E 'ERROR: |SUMMARY: ' "$log")
    # A finding outlives its machine, if it is small: base64 -d >FILE, then build/fuzz/bin/NAME FILE.
    if [ -f "$input" ] && [ "$(stat -c %s "$input")" -le 2048 ]; then lines+=$'\n'$(base64 -w0 "$input"); fi
    printf '%s\n' "$lines"  # at once, and less than a pipe takes whole: other fuzzers print, too
    return 1
  fi
}
export -f run
export seconds corpora findings seed
echo "KVLINK_SEED=$seed"

names=$(cd build/fuzz/bin 2>/dev/null && ls -d ./*_fuzzer 2>/dev/null | sed 's|^\./||')
[ -n "$names" ] || { echo "no fuzzers in build/fuzz/bin: run make fuzz" >&2; exit 1; }
failed=0
xargs -P "$(nproc)" -I{} bash -c 'run {}' <<<"$names" || failed=1
[ $# -ge 2 ] || rm -rf "$corpora"
exit $failed
