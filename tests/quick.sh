#!/usr/bin/env bash
# The tests of the folders that differ from $BASE: builds each folder of tests/ that mirrors one, and runs what is there.
set -uo pipefail
cd "$(dirname "$0")/.."
base=${BASE:-HEAD}
chosen=()

# The folder of tests/ for a file: its mirror, or the nearest one above that has tests.
folder_of() {
  local folder
  folder=$(dirname "$1")
  folder=tests/${folder#tests/}
  while [ ! -f "$folder/CMakeLists.txt" ] && [ "$folder" != tests ]; do folder=$(dirname "$folder"); done
  echo "$folder"
}

folders=$({ git diff --name-only "$base"; git ls-files -o --exclude-standard; } | grep -E '\.(h|cc|cu|inc|proto)$|CMakeLists\.txt$' |
  while read -r file; do folder_of "$file"; done | sort -u | grep -vx tests)
# What lies below another folder of the list comes with it.
for folder in $folders; do
  above=$(dirname "$folder")
  while [ "$above" != . ]; do
    grep -qx "$above" <<<"$folders" && continue 2
    above=$(dirname "$above")
  done
  chosen+=("$folder")
done
[ ${#chosen[@]} -gt 0 ] || { echo "quick: no tests for what changed"; exit 0; }
echo "quick: ${chosen[*]}"
cmake --preset release >/dev/null && cmake --build build/release -j "${JOBS:-$(nproc)}" --target "${chosen[@]/%//all}" || exit 1
failed=0
for folder in "${chosen[@]}"; do
  ctest --test-dir "build/release/$folder" -j 2 --output-on-failure -LE slow || failed=1
done
exit $failed
