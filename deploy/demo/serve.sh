#!/usr/bin/env bash
# Serves the demo's documents over HTTP: encodes them once, starts the server, asks one question as any client of OpenAI's API would, and
# leaves the server running until ^C. KVLINK_DEMO_LISTEN: where (127.0.0.1:8080). Options: --once ends after the answer.
set -euo pipefail
cd "$(dirname "$0")/../.."
kvlink=build/release/bin/kvlink
model=${KVLINK_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
store=${KVLINK_DEMO_STORE:-.cache/demo-store}
listen=${KVLINK_DEMO_LISTEN:-127.0.0.1:8080}
once=0; [ "${1:-}" = --once ] && once=1
[ -x "$kvlink" ] || { echo "no $kvlink: run make demo-serve" >&2; exit 1; }
mkdir -p "$(dirname "$store")"

files=$(mktemp -d)
server=
end() {
  status=$?
  set +e  # what is gone already need not be ended
  trap - EXIT INT TERM
  [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
  rm -rf "$files"
  exit "$status"
}
trap end EXIT
trap 'exit 0' INT TERM

echo "Encoding the documents once:"
"$kvlink" ingest --store "$store" --model "$model" deploy/demo/documents.jsonl
echo
# In a session of its own, so that ^C ends this script, which then ends the server.
setsid "$kvlink" serve --store "$store" --model "$model" --alias demo --listen "$listen" >"$files/ready" 2>"$files/log" &
server=$!
until [ -s "$files/ready" ]; do
  kill -0 "$server" 2>/dev/null || { cat "$files/log" >&2; exit 1; }
  sleep 0.1
done
url=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])' <"$files/ready")

echo "The server answers at $url, in the APIs of OpenAI and Anthropic:"
request='{"model": "demo", "messages": [{"role": "user", "content": "What are the names of the two moons of Mars?"}],
  "documents": [{"id": "hubble"}, {"id": "apollo-11"}, {"id": "moon"}, {"id": "mars"}], "temperature": 0, "max_tokens": 64, "kv": {"report": true}}'
echo
echo "curl $url/v1/chat/completions -d '$request'"
echo
python3 - "$url/v1/chat/completions" "$request" <<'EOF'
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
usage = answer["usage"]
print(answer["choices"][0]["message"]["content"])
print(f'\n{usage["prompt_tokens_details"]["cached_tokens"]} of {usage["prompt_tokens"]} tokens of the prompt were read from encodings; '
      f'{answer["kv"]["first_token_ms"]:.0f} ms to the first token')
EOF
[ "$once" = 1 ] && exit 0
echo
echo "It runs until ^C; what it counts is at $url/metrics, and docs/serving.md says what requests may contain."
wait "$server"
