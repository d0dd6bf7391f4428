#!/usr/bin/env bash
# The stages of `make test`, one after another; prints how long each took, and keeps that in build/stages. Tests wait for processes and deadlines more than
# they compute: meanwhile the next trees are built at idle priority, and a tree's own stage builds what is left of it.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
rm -f build/stages
make=("${MAKE:-make}" --no-print-directory)
idle=(nice -n 19)
chrt --idle 0 true 2>/dev/null && idle=(chrt --idle 0)
ahead=

end_ahead() {
  [ -n "$ahead" ] || return 0
  kill -TERM -- "-$ahead" 2>/dev/null
  wait "$ahead" 2>/dev/null
  ahead=
}
trap end_ahead EXIT
trap 'exit 143' TERM INT

# stage TARGET [TARGETS]: makes it, and TARGETS as far as there is time.
stage() {
  local target=$1 begun=$SECONDS code=0 seconds
  shift
  if [ $# -gt 0 ]; then
    set -m # a process group of its own, which can be ended
    "${idle[@]}" "${make[@]}" "$@" >build/ahead.log 2>&1 </dev/null &
    ahead=$!
    set +m
  fi
  "${make[@]}" "$target" || code=$?
  end_ahead
  seconds=$((SECONDS - begun))
  printf '== %-14s %3d min %02d s\n' "$target" $((seconds / 60)) $((seconds % 60)) | tee -a build/stages
  [ $code -eq 0 ] || exit $code
}

# Cheap checks first, so that a failure shows early.
stage release-build
stage release-tests asan-build
stage annotations
stage cuda-check
stage asan-build
stage asan tsan-build
stage tsan-build
stage tsan fuzz-build
stage fuzz
