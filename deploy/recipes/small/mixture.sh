#!/usr/bin/env bash
# What a mixture preserves: the small model before and after tuning on questions alone and on KVLink's mixture; see README.md and --help.
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
options "Tunes the small model with five links on questions alone, and on text, chats, questions and summaries in KVLink's shares, from the
same base with the same steps, and prints perplexity of held-out text, loss of held-out chats and exact match before and after. What
run.sh made in the same folder is used, and made if it is missing. About an hour of one core after run.sh." "$@"

# measure MODEL PROFILE LINKERS: of the model in the folder MODEL.
measure() {
  local model=$1 profile=$2 linkers=$3
  evaluate "mixture-$model-text" "$out/$model/model" "$profile" "$linkers" --data "text:$out/lessons/stories-held-out.jsonl" --documents 8 \
    --document-tokens 60 --max-tokens 60
  evaluate "mixture-$model-chat" "$out/$model/model" "$profile" "$linkers" --data "chat:$out/lessons/chats-held-out.jsonl" --max-tokens 32
  evaluate "mixture-$model-questions" "$out/$model/model" "$profile" "$linkers" --kinds continued --documents 6 --document-tokens 50 \
    --split tune --seed 1000 --max-tokens 96
}

stages=11
base_stages
tuned links-5 5 questions
tuned mixture 5 mixture
stage "mixture-base-$count" measure base untuned concat,full
stage "mixture-links-5-$count" measure links-5 "$out/links-5/profile.json" links,concat,full
stage "mixture-mixture-$count" measure mixture "$out/mixture/profile.json" links,concat,full
python3 "$recipe/table.py" --mixture "$out/tables"
