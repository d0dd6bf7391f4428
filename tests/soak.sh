#!/usr/bin/env bash
# The long run: every test binary with KVLINK_SOAK=1, then every fuzzer for ten minutes.
# What passed is remembered in build/soak, so that a run that was stopped goes on; KVLINK_SEED=N starts anew with another seed.
set -uo pipefail
cd "$(dirname "$0")/.."
export KVLINK_SOAK=1 KVLINK_SEED=${KVLINK_SEED:-$(cat build/soak/seed 2>/dev/null || echo 1)}
if [ "$(cat build/soak/seed 2>/dev/null)" != "$KVLINK_SEED" ]; then
  rm -rf build/soak/passed
fi
mkdir -p build/soak/passed build/soak/corpora
echo "$KVLINK_SEED" >build/soak/seed
failed=0
for test in build/release/bin/*_test; do
  name=$(basename "$test")
  if [ "build/soak/passed/$name" -nt "$test" ]; then
    echo "$name: passed before"
    continue
  fi
  if "$test" >"build/soak/$name.log" 2>&1; then
    touch "build/soak/passed/$name"
    echo "$name: passed"
  else
    echo "$name: FAILED with KVLINK_SEED=$KVLINK_SEED, see build/soak/$name.log"
    failed=1
  fi
done
tests/fuzz/run.sh "${KVLINK_SOAK_FUZZ_SECONDS:-600}" build/soak/corpora || failed=1
if [ $failed -eq 0 ]; then
  echo $((KVLINK_SEED + 1)) >build/soak/seed
  rm -rf build/soak/passed
  echo "soak: passed with seed $KVLINK_SEED; the next run takes $((KVLINK_SEED + 1))"
fi
exit $failed
