#!/usr/bin/env bash
# A whole cluster on this machine, in front of the user: etcd, PostgreSQL and three nodes, documents ingested and answered from; then a
# node dies while answers keep coming, what it held is repaired and it comes back, and another one is drained. Everything it started and
# wrote is gone when it ends. Options: --keep leaves it running until ^C, and says how to use it.
set -euo pipefail
cd "$(dirname "$0")/../.."
kvlink=$PWD/build/release/bin/kvlink
model=${KVLINK_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
keep=0; [ "${1:-}" = --keep ] && keep=1

fail() { echo "demo-cluster: $*" >&2; exit 1; }
say() { printf '\n== %s\n' "$*"; }
[ -x "$kvlink" ] || fail "no $kvlink: run make demo-cluster"
command -v etcd >/dev/null || fail "etcd is not installed: run make deps"
postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$postgres" ] || fail "PostgreSQL is not installed: run make deps"

root=$(mktemp -d /tmp/kvlink-demo-cluster.XXXXXX)
chmod 0755 "$root"
declare -A pids=()
end() {
  status=$?
  set +e  # what is gone already need not be ended
  trap - EXIT INT TERM
  case $status in 0|130|143) ;; *) tail -n 5 "$root"/*.log >&2 2>/dev/null ;; esac
  for name in asking waiting node-1 node-2 node-3; do [ -n "${pids[$name]:-}" ] && kill "${pids[$name]}" 2>/dev/null; done
  [ -d "$root/postgres" ] && as_postgres "$postgres/pg_ctl" -D "$root/postgres" -m fast -s stop >/dev/null 2>&1
  [ -n "${pids[etcd]:-}" ] && kill "${pids[etcd]}" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$root"
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL does not run as root.
as_postgres() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi; }
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_true() { # SECONDS COMMAND...: until the command succeeds
  local until=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $until ] || return 1; sleep 0.2; done
}

say "etcd, which says who is a member"
etcd_port=$(port); peer_port=$(port)
etcd --name demo --data-dir "$root/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
  --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-cluster "demo=http://127.0.0.1:$peer_port" >"$root/etcd.log" 2>&1 &
pids[etcd]=$!
until_true 20 bash -c "exec 3<>/dev/tcp/127.0.0.1/$etcd_port" || fail "etcd does not start: see its log below"
cluster=127.0.0.1:$etcd_port/demo
echo "127.0.0.1:$etcd_port"

say "PostgreSQL, which keeps the catalog"
mkdir "$root/postgres" "$root/socket"
[ "$(id -u)" = 0 ] && chown postgres:postgres "$root/postgres" "$root/socket"
as_postgres "$postgres/initdb" -D "$root/postgres" -A trust -U kvlink >"$root/postgres.log" 2>&1
postgres_port=$(port)
as_postgres "$postgres/pg_ctl" -D "$root/postgres" -s -w -l "$root/socket/log" \
  -o "-p $postgres_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$root/socket" start >>"$root/postgres.log" 2>&1
echo "127.0.0.1:$postgres_port"

say "A cluster of three nodes; each encoding lies on two of them"
"$kvlink" cluster create --cluster "$cluster" --copies 2 --acknowledged 2 \
  --database "postgresql://kvlink@127.0.0.1:$postgres_port/postgres"
declare -A listen=()
start_node() { # NAME
  listen[$1]=${listen[$1]:-127.0.0.1:$(port)}
  "$kvlink" store --store "$root/$1" --cluster "$cluster" --listen "${listen[$1]}" --memory 512M --capacity 4G >"$root/$1.ready" 2>"$root/$1.log" &
  pids[$1]=$!
  until_true 30 grep -q grpc "$root/$1.ready" || fail "$1 does not start: see its log below"
}
for name in node-1 node-2 node-3; do start_node $name; done
member() { "$kvlink" members --cluster "$cluster" | grep -F "${listen[$1]}"; }
active() { member "$1" | grep -q active; }
for name in node-1 node-2 node-3; do until_true 60 active $name || fail "$name has not become active"; done
"$kvlink" members --cluster "$cluster"

say "Documents are encoded once, and written to two nodes each"
export KVLINK_STORE=etcd://$cluster
"$kvlink" ingest --model "$model" deploy/demo/documents.jsonl
"$kvlink" status --cluster "$cluster"

ask() { "$kvlink" ask --model "$model" --linker concat --max-tokens 24 --doc moon --doc mars "What are the names of the two moons of Mars?"; }
say "An answer from them"
ask

say "Questions are asked one after another, and in the middle of it node-2 is killed (kill -9)"
ask_on() { local n=0; while [ ! -e "$root/enough" ]; do if ask >"$root/answer" 2>"$root/answer.errors"; then n=$((n + 1)); echo "$n answered" >"$root/asked"; else
  echo "failed: $(tail -n 1 "$root/answer.errors")" >>"$root/failures"; fi; done; }
: >"$root/failures"; echo "0 answered" >"$root/asked"
ask_on & pids[asking]=$!
sleep 3
before=$(cat "$root/asked")
kill -9 "${pids[node-2]}"; wait "${pids[node-2]}" 2>/dev/null || true
echo "killed after $before; waiting for more"
sleep 8
touch "$root/enough"; wait "${pids[asking]}" || true
unset 'pids[asking]'
echo "$(cat "$root/asked") in all, $(wc -l <"$root/failures") failed"
[ -s "$root/failures" ] && { head -n 3 "$root/failures"; fail "answers failed while a node was gone"; }
"$kvlink" status --cluster "$cluster"

say "node-2 comes back, with an empty disk: the others fill it again"
rm -rf "$root/node-2"
old=$(member node-2 | awk '{print $1}')
"$kvlink" members remove "$old" --force --cluster "$cluster"
start_node node-2
until_true 120 active node-2 || fail "node-2 was not filled"
"$kvlink" status --cluster "$cluster"

say "node-1 is drained: the others take over what it holds, then it leaves"
"$kvlink" drain "${listen[node-1]}" --cluster "$cluster" --wait
wait "${pids[node-1]}"
unset 'pids[node-1]'
"$kvlink" status --cluster "$cluster"
ask
say "Two nodes are left, and hold two copies of everything"

if [ "$keep" = 1 ]; then
  echo "It runs on until ^C. Use it with KVLINK_STORE=etcd://$cluster"
  sleep infinity &
  pids[waiting]=$!
  wait "${pids[waiting]}"
fi
