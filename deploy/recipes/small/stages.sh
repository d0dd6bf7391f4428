# Sourced by run.sh and mixture.sh: their options, and stages, each of which is done once. Sets `out`, `count`, `steps` and the rest below.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=$(basename "$0")
bin=$recipe/../../../build/release/bin
out=$recipe/../../../.cache/small
seed=1 threads=1 count=100 smoke=0
stage_number=0 stages=0

fail() { echo "$program: $2" >&2; exit "$1"; }

# options SUMMARY ARGUMENTS...: of the command line.
options() {
  local summary=$1; shift
  while [ $# -gt 0 ]; do
    case $1 in
      --help)
        cat <<HELP
$program [--out FOLDER] [--seed N] [--threads N] [--count N] [--bin FOLDER] [--smoke]

$summary

The same command goes on where it was stopped, and prints the table again once all is done. A terminal shows the stage and its progress;
elsewhere nothing is written but the table and errors. What the programs say is in FOLDER/*.log.

  --out FOLDER   where everything is written (.cache/small)
  --seed N       of lessons and of training (1); questions to measure with have seeds of their own
  --threads N    on the CPU (1); training with another number computes slightly other numbers
  --count N      questions of each kind in each row of the table (100); a higher one adds to what was measured
  --bin FOLDER   where kvlink and kvlink-train are (build/release/bin)
  --smoke        two steps of everything and one question: whether it runs, not what it learns
HELP
        exit 0 ;;
      --smoke) smoke=1; shift; continue ;;
      --out|--seed|--threads|--count|--bin) [ $# -ge 2 ] || fail 2 "option $1 needs a value" ;;
      *) fail 2 "unknown option '$1'; see --help" ;;
    esac
    case $1 in
      --out) out=$2 ;;
      --bin) bin=$2 ;;
      *)
        case $2 in ''|*[!0-9]*) fail 2 "option $1: '$2' is not a number" ;; esac
        case $1 in --seed) seed=$2 ;; --threads) threads=$2 ;; --count) count=$2 ;; esac ;;
    esac
    shift 2
  done
  [ "$smoke" = 0 ] || count=1
  local name
  for name in kvlink kvlink-train; do
    [ -x "$bin/$name" ] || fail 3 "no $bin/$name: build it (docs/training.md says what kvlink-train needs), or name its folder with --bin"
  done
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  bin=$(cd "$bin" && pwd)
  exec {lock}>"$out/lock"
  flock -n "$lock" || fail 5 "$out: another run is writing to it"
}

# stage NAME COMMAND...: runs a command or a function whose output goes to NAME.log, unless that was done before. It must not be called as a
# condition, where bash goes on after errors.
stage() {
  local name=$1 status; shift
  local mark=$out/$name.done wanted=${*:2}
  wanted=${wanted//"$out"/.} wanted=${wanted//"$recipe"/} wanted=${wanted//--threads $threads/}
  stage_number=$((stage_number + 1))
  if [ -f "$mark" ]; then
    [ "$(cat "$mark")" = "$wanted" ] || fail 4 "$mark is of other options or of another recipe; use another --out"
    return 0
  fi
  set +e
  if [ -t 2 ]; then
    echo "[$stage_number of $stages] $name" >&2
    (set -e; "$@") >"$out/$name.log"
  else
    (set -e; "$@") >"$out/$name.log" 2>&1
  fi
  status=$?
  set -e
  if [ "$status" != 0 ]; then
    [ -t 2 ] || tail -n 3 "$out/$name.log" >&2
    fail "$status" "the stage $name ended with $status (see $out/$name.log); the same command goes on there"
  fi
  echo "$wanted" >"$mark.new"
  mv "$mark.new" "$mark"
}

# train NAME MODE MODEL STEPS MIXTURE OPTIONS...: into NAME. Later options replace earlier ones. What is held out says with which loss a stage began,
# so that one hard pack after an easy one does not count as a divergence.
train() {
  local name=$1 mode=$2 model=$3 steps=$4 mixture=$5 warm_up=100 held_out=48; shift 5
  [ "$smoke" = 0 ] || steps=2 warm_up=1 held_out=4
  stage "$name" "$bin/kvlink-train" "$mode" --model "$model" --mixture "$out/lessons/$mixture.json" --out "$out/$name" --steps "$steps" \
    --warm-up "$warm_up" --held-out "$held_out" --every 500 --patience 0 --checkpoint 100 --seed "$seed" --threads "$threads" --device cpu \
    --compute f32 --pack many --batch 1 "$@"
}

# write_lessons SEED EXAMPLES: with the mixtures beside them, which name them.
write_lessons() {
  python3 "$recipe/lessons.py" "$out/lessons" --seed "$1" --examples "$2"
  cp "$recipe"/mixtures/*.json "$out/lessons/"
}

# The model that answers with full attention: from random weights, each stage harder than the one before.
base_stages() {
  local examples=8000
  [ "$smoke" = 0 ] || examples=60
  stage lessons write_lessons "$seed" "$examples"
  train copy full "$out/lessons/shape" 2500 copy --scratch --links 0 --tokens 1024 --lr 2e-3
  train facts full "$out/copy/model" 3000 facts --links 0 --tokens 1024 --lr 1.5e-3
  train documents full "$out/facts/model" 3000 documents --links 0 --tokens 3072 --lr 1e-3
  train hops full "$out/documents/model" 3000 hops --links 0 --tokens 3072 --lr 1e-3
  train base full "$out/hops/model" 4000 base --links 0 --tokens 3072 --lr 7e-4
}

# tuned NAME LINKS MIXTURE: the base, which goes on learning with links over what is read alone and in full.
tuned() { train "$1" full "$out/base/model" 5000 "$3" --links "$2" --slots 8 --tokens 3072 --lr 5e-4; }

# wrapper NAME MODEL: for a model that stays as it is.
wrapper() {
  train "$1" wrapper "$2" 600 wrapper --header 4 --trailer 4 --begin $'<|im_start|>\n \n \n \n' --tokens 1536 --batch 2 --lr 4e-3 \
    --answer-weight 0.2 --every 150
}

# evaluate NAME MODEL PROFILE LINKERS OPTIONS...: results in results/NAME.jsonl, the table in tables/NAME.json.
evaluate() {
  local name=$1 model=$2 profile=$3 linkers=$4; shift 4
  mkdir -p "$out/results" "$out/tables"
  "$bin/kvlink" eval --model "$model" --profile "$profile" --linkers "$linkers" --count "$count" --threads "$threads" --compute f32 \
    --results "$out/results/$name.jsonl" --json "$out/tables/$name.json" "$@"
}
