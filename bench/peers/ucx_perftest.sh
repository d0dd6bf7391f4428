#!/usr/bin/env bash
# Runs ucx_perftest with tagged messages of SLAB_BYTES over tcp (its test of active messages drops what it receives):
# ucx_perftest.sh SLAB_BYTES prints its last line. Uses one hot buffer on each side, not a ring, so it is not our ceiling.
# Exits with 77 if it is not installed (package ucx-utils).
set -euo pipefail
command -v ucx_perftest >/dev/null || exit 77
export UCX_NET_DEVICES=lo UCX_TLS=tcp
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
ucx_perftest -p "$port" >/dev/null 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
sleep 1
timeout 60 ucx_perftest 127.0.0.1 -p "$port" -t tag_bw -s "$1" -n 500 -w 20 -f 2>/dev/null | tail -n 1
