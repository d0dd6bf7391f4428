#!/usr/bin/env bash
# A small model from random weights, linkers for it, and the table of what they recover; see README.md and --help.
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
options "Trains a model of 1.1 million parameters until it answers questions over several documents with full attention, trains linkers for
it, measures them and prints what each recovers. About three hours of one core for training, and one for measuring." "$@"

# measure SET OPTIONS...: all models and kinds of questions. Questions of seeds that no training draws from.
measure() {
  local set=$1 kinds documents; shift
  for kinds in lookup,hops-across/4 chain/2 continued/6; do
    documents=${kinds#*/} kinds=${kinds%/*}
    [ "$smoke" = 0 ] || [ "$kinds" = continued ] || continue
    local -a asked=(--kinds "$kinds" --documents "$documents" --document-tokens 50 --seed 1000 --max-tokens 96 "$@")
    evaluate "$set-base-$documents" "$out/base/model" "$out/wrapper/profile.json" concat,packet,prophet-5,full "${asked[@]}"
    evaluate "$set-links-0-$documents" "$out/links-0/model" untuned concat,prophet-5,full "${asked[@]}"
    evaluate "$set-links-1-$documents" "$out/links-1/model" "$out/links-1/profile.json" concat,links,links+prophet-5,full "${asked[@]}"
    evaluate "$set-links-5-$documents" "$out/links-5/model" "$out/both/profile.json" \
      concat,links,packet,packet+links,packet+links+prophet-5,full "${asked[@]}"
  done
}

stages=16
[ "$smoke" = 0 ] || stages=14
base_stages
wrapper wrapper "$out/base/model"
tuned links-0 0 questions
tuned links-1 1 questions
tuned links-5 5 questions
wrapper wrapper-5 "$out/links-5/model"
stage both python3 "$recipe/join.py" "$out/links-5" "$out/wrapper-5" "$out/both"
stage "seen-$count" measure seen --split tune
if [ "$smoke" = 0 ]; then
  stage "names-$count" measure names --split tune --names letters
  stage "long-$count" measure long --split tune --document-tokens 100
fi
stage "unseen-$count" measure unseen --split test
python3 "$recipe/table.py" "$out/tables"
