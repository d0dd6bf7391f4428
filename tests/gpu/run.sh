#!/usr/bin/env bash
# On a machine with a CUDA device: builds kernels and worker/model alone (preset bare, with CUDA), runs their tests on
# every backend, the device's among them, and measures the kernels and a model of random weights; PyTorch's full prefill
# beside it where python3 has torch. Ends in one table. Needs CMake, ninja, nvcc, Abseil and GoogleTest, the latter two
# where CMAKE_PREFIX_PATH says or where CMake finds them. Figures: build/bare/gpu/.
# Options: --no-bench; --allow-no-device, to try the script itself.
set -uo pipefail
cd "$(dirname "$0")/../.."

bench=1 need_device=1
for option in "$@"; do
  case "$option" in
    --no-bench) bench=0 ;;
    --allow-no-device) need_device=0 ;;
    *) echo "usage: tests/gpu/run.sh [--no-bench] [--allow-no-device]" >&2; exit 2 ;;
  esac
done

cmake --preset bare -DKVLINK_CUDA=ON >/dev/null || exit 1
cmake --build build/bare -j "${JOBS:-$(nproc)}" || exit 1
results=build/bare/gpu
mkdir -p "$results"

failed=0 table=()
for test in kernels_test linked_attention_test cuda_test model_forward_test bench_device_test; do
  log=$results/$test.log
  build/bare/bin/$test >"$log" 2>&1
  code=$?
  [ $code -eq 0 ] || failed=1
  if [ $test = kernels_test ] && grep '^backend cuda: skipped' "$log"; then
    [ $need_device -eq 0 ] || exit 1
  fi
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  on_device=$(grep -c '^\[       OK \].*/cuda (' "$log")
  table+=("$(printf '%-24s %-8s %6s passed, %4s of them on the device' "$test" "$([ $code -eq 0 ] && echo ok || echo FAILED)" "${passed:-0}" "$on_device")")
done
if [ $bench -eq 1 ]; then
  rm -f "$results"/*.json
  for name in cuda device kernels; do
    arguments=()
    [ $name != kernels ] || arguments=(--small --rounds 3)
    echo "== bench_$name"
    build/bare/bin/bench_$name ${arguments[@]+"${arguments[@]}"} --json "$results/bench_$name.json" | tee "$results/bench_$name.log" || failed=1
  done
  echo "== PyTorch"
  python3 bench/model/torch_prefill.py --json "$results/torch_prefill.json" | tee "$results/torch_prefill.log" || [ "${PIPESTATUS[0]}" -eq 3 ] || failed=1
fi

echo "== tests"
printf '%s\n' "${table[@]}"
[ $bench -eq 0 ] || python3 tests/gpu/figures.py "$results" || failed=1
exit $failed
