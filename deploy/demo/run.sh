#!/usr/bin/env bash
# The demo: encode the documents once, then answer each question from the encodings and by a full prefill.
set -euo pipefail
cd "$(dirname "$0")/../.."
kvlink=build/release/bin/kvlink
model=${KVLINK_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
store=${KVLINK_DEMO_STORE:-.cache/demo-store}
[ -x "$kvlink" ] || { echo "no $kvlink: run make demo" >&2; exit 1; }
mkdir -p "$(dirname "$store")"

echo "Encoding the documents once:"
"$kvlink" ingest --store "$store" --model "$model" deploy/demo/documents.jsonl
echo
echo "Answering from the encodings, beside a full prefill of the same text:"
"$kvlink" ask --store "$store" --model "$model" --linker concat --questions deploy/demo/questions.jsonl --compare --max-tokens 64
echo
echo "kvlink serve answers over HTTP, in the APIs of OpenAI and Anthropic: make demo-serve"
