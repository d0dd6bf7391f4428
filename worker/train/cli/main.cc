// kvlink-train: tunes wrappers, links or a whole model for documents that are read from their encodings. Each mode is a
// command with its own defaults; the same command continues an interrupted run.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/gnuplot.h"
#include "base/cli/program.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "worker/cli/interrupt.h"
#include "worker/files/hf_config.h"
#include "worker/files/mapped_file.h"
#include "worker/files/model_path.h"
#include "worker/files/open_tokenizer.h"
#include "worker/files/weights.h"
#include "worker/link/plan.h"
#include "worker/train/identity.h"
#include "worker/train/output.h"
#include "worker/train/trainer.h"

namespace kvlink::cli {
namespace {

constexpr int64_t kMany = int64_t{1} << 30;
constexpr absl::string_view kOutputs =
    "Writes to --out: profile.json with its safetensors, for --profile of kvlink ingest and ask;\n"
    "metrics.jsonl; events.out.tfevents.kvlink for TensorBoard; curves.png if gnuplot is installed; and\n"
    "checkpoint.kvtc, from which the same command continues an interrupted run.";
constexpr absl::string_view kFrozen =
    "\n\nThe model stays as it is: embeddings learn to make it answer from encodings as it does with full\n"
    "attention. Without --mixture, they learn from generated questions.";
constexpr absl::string_view kLearning =
    "\n\nThe merged model goes to model/ in --out, for --model. Without --mixture, it learns from KVLink's\n"
    "mixture of text, chats, questions and summaries, whose files --data names.";

struct Flags {
  std::string model = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::string profile = "untuned";
  std::string out;
  std::string name;
  std::string mixture;
  std::vector<std::string> data;
  int64_t skip_damaged = 0;
  std::string begin;
  std::string schedule;
  std::string save = "f32";
  std::string pack;
  std::string device = "auto";
  std::string compute = "auto";
  int64_t seed = 1;
  bool scratch = false;
  train::Settings settings;
};

// What learns.
void AddTrained(Arguments& arguments, Flags& flags) {
  train::Settings& s = flags.settings;
  const train::Mode mode = s.mode;
  if (train::HasWrapper(mode)) {
    arguments.Integer("header", "N", "Wrapper tokens before each document.", 0, 1024, &s.embeddings.header);
    arguments.Integer("trailer", "N", "Wrapper tokens behind each document.", 0, 1024, &s.embeddings.trailer);
  }
  if (mode != train::Mode::kWrapper) {
    arguments.Integer("links", "N", "Link tokens behind each document.", 0, 256, &s.embeddings.links);
    arguments.Integer("slots", "N", "The most documents in a prompt with links.", 1, 65536, &s.embeddings.slots);
  }
  arguments.Text(
      "begin", "TEXT",
      "What is trained begins as this text's tokens, special ones too, over and over: links, header, trailer. "
      "Default: random tokens.",
      &flags.begin);
  if (mode == train::Mode::kLora) {
    arguments.Integer("rank", "N", "Rank of the matrices that are added.", 1, 4096, &s.rank);
    arguments.Number("alpha", "X", "What is added is scaled by alpha / rank.", &s.alpha);
  }
  if (!train::Frozen(mode)) {
    arguments.Texts("data", "FORMAT:FILE", "A file of KVLink's mixture; may be given several times.", &flags.data);
    arguments.Choice("save", {"f32", "bf16"}, "Number format of the merged model.", &flags.save);
  }
  if (mode == train::Mode::kFull) {
    arguments.Flag("scratch", "Begin with random weights; --model has a config.json and a tokenizer.", &flags.scratch);
  }
}

void AddOptimizer(Arguments& arguments, Flags& flags) {
  train::Settings& s = flags.settings;
  arguments.Integer("steps", "N", "Steps of the optimizer, AdamW.", 1, kMany, &s.steps);
  arguments.Integer("batch", "N", "Packs of a step.", 1, 65536, &s.batch);
  arguments.Integer("tokens", "N",
                    "The longest sequence, and the size of a pack. Longer examples are left out, longer texts cut.", 16,
                    1 << 20, &s.tokens);
  arguments.Choice("pack", {"one", "many"}, "Examples of a pack: one, or as many as fit, which do not see each other.",
                   &flags.pack);
  arguments.Number("lr", "X", "Learning rate after the warm-up.", &s.learning_rate);
  arguments.Integer("warm-up", "N", "Steps in which the learning rate grows from 0.", 0, kMany, &s.warm_up);
  arguments.Choice("schedule", {"cosine", "linear", "constant"}, "How the learning rate falls to 0 after the warm-up.",
                   &flags.schedule);
  arguments.Real("weight-decay", "X", "Of AdamW.", 0, 1, &s.weight_decay);
  arguments.Number("clip", "X", "Greatest norm of a step's gradient; a greater one is scaled down.", &s.clip);
  if (s.mode != train::Mode::kFull) {
    arguments.Real("teacher-weight", "X",
                   "Weight of the divergence (KL) from what the model says with full attention, on answer tokens.", 0,
                   1e6, &s.divergence);
  }
  arguments.Real("answer-weight", "X", "Weight of the answers' cross-entropy.", 0, 1e6, &s.cross_entropy);
}

void AddMeasurements(Arguments& arguments, Flags& flags) {
  train::Settings& s = flags.settings;
  arguments.Integer("held-out", "N", "Examples that are measured and never learned from.", 0, 1 << 20, &s.held_out);
  arguments.Integer("every", "N", "Steps between two measurements of them.", 1, kMany, &s.every);
  arguments.Integer("patience", "N", "Measurements without a better one after which training ends; 0: it never does.",
                    0, kMany, &s.patience);
  arguments.Integer("checkpoint", "N", "Steps between two checkpoints.", 1, kMany, &s.checkpoint);
}

void AddFlags(Arguments& arguments, Flags& flags) {
  arguments.Text("model", "PATH",
                 train::Frozen(flags.settings.mode)
                     ? "The model: a .gguf file, or a directory with config.json and safetensors files."
                     : "The model: a directory with config.json and safetensors files.",
                 &flags.model);
  arguments.Text("profile", "NAME|FILE", "Link profile whose template and place of documents are taken over.",
                 &flags.profile);
  arguments.Text("out", "DIRECTORY", "Where everything is written; created if it is missing.", &flags.out);
  arguments.Text("name", "NAME", "Of the new profile; by default that of the directory.", &flags.name);
  arguments.Text("mixture", "FILE", "What to learn from, as JSON (docs/training.md).", &flags.mixture);
  arguments.Integer("skip-damaged", "N", "Damaged examples that are skipped in each reading of a file.", 0, kMany,
                    &flags.skip_damaged);
  AddTrained(arguments, flags);
  AddOptimizer(arguments, flags);
  AddMeasurements(arguments, flags);
  arguments.Integer("seed", "N", "Of everything random.", 0, std::numeric_limits<int64_t>::max(), &flags.seed);
  arguments.Choice("device", {"auto", "cpu", "cuda"}, "Where to compute; auto: on an NVIDIA GPU if LibTorch sees one.",
                   &flags.device);
  arguments.Choice("compute", {"auto", "f32", "bf16"}, "Number format of matrix products; auto: bf16 on a GPU.",
                   &flags.compute);
  arguments.Integer(
      "recompute-above", "N",
      "Packs of more tokens keep only each layer's input for the backward pass, which takes a third longer "
      "and far less memory.",
      0, kMany, &flags.settings.recompute_above);
  arguments.Threads(&flags.settings.threads);
}

// Members are ordered by lifetime.
struct Opened {
  std::unique_ptr<model::Weights> weights;  // none with --scratch
  model::ModelConfig config;
  std::string template_source;
  std::unique_ptr<model::Tokenizer> tokenizer;
  link::ModelChat chat;
  link::LinkProfile profile;
  train::Mixture mixture;
};

absl::StatusOr<train::Mixture> OpenMixture(const Flags& flags) {
  if (flags.mixture.empty()) {
    return train::Frozen(flags.settings.mode) ? train::GeneratedMixture() : train::PaperMixture(flags.data);
  }
  if (!flags.data.empty())
    return absl::InvalidArgumentError("option --data: not with --mixture, which names its files");
  KVLINK_ASSIGN_OR_RETURN(const std::string json, model::ReadSmallFile(flags.mixture, int64_t{1} << 20));
  auto mixture = train::ParseMixture(json, std::filesystem::path(flags.mixture).parent_path().string());
  return mixture.ok() ? std::move(mixture) : Annotate(mixture.status(), flags.mixture);
}

absl::Status OpenScratch(const std::string& path, Opened* opened) {
  KVLINK_ASSIGN_OR_RETURN(const std::string config,
                          model::ReadSmallFile(path + "/config.json", model::kMaxConfigBytes));
  KVLINK_ASSIGN_OR_RETURN(opened->config, model::ParseHfConfig(config, ""));
  const auto tokenizer = model::ReadSmallFile(path + "/tokenizer_config.json", model::kMaxConfigBytes);
  if (!tokenizer.ok()) return absl::IsNotFound(tokenizer.status()) ? absl::OkStatus() : tokenizer.status();
  KVLINK_ASSIGN_OR_RETURN(opened->template_source, model::ParseHfChatTemplate(*tokenizer));
  return absl::OkStatus();
}

absl::StatusOr<Opened> Open(const Flags& flags) {
  Opened opened;
  KVLINK_ASSIGN_OR_RETURN(const model::ModelPath path, model::ResolveModelPath(flags.model));
  if (!train::Frozen(flags.settings.mode) && path.directory.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("option --model: the mode ", train::ModeName(flags.settings.mode),
                                                   " writes a merged Hugging Face model, so it needs a "
                                                   "directory with config.json and safetensors files, and no .gguf"));
  }
  if (!train::Frozen(flags.settings.mode)) {
    KVLINK_RETURN_IF_ERROR(train::MergedConfig(path.directory, flags.save == "bf16").status());
  }
  KVLINK_ASSIGN_OR_RETURN(opened.mixture, OpenMixture(flags));
  KVLINK_ASSIGN_OR_RETURN(opened.profile, link::LoadLinkProfile(flags.profile));
  if (flags.scratch) {
    KVLINK_RETURN_IF_ERROR(Annotate(OpenScratch(path.directory, &opened), path.directory));
  } else {
    KVLINK_ASSIGN_OR_RETURN(opened.weights, model::OpenWeights(flags.model));
    opened.config = opened.weights->config();
    opened.template_source = std::string(opened.weights->chat_template());
  }
  KVLINK_RETURN_IF_ERROR(link::CheckProfile(opened.profile, opened.config));
  KVLINK_ASSIGN_OR_RETURN(opened.tokenizer, model::OpenTokenizer(flags.model));
  KVLINK_ASSIGN_OR_RETURN(opened.chat, link::OpenChat(opened.template_source, opened.config, *opened.tokenizer));
  return opened;
}

absl::Status WriteOutputs(const Flags& flags, const Opened& opened, train::Learner& learner) {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<train::NamedTensor> trained, learner.Trained());
  KVLINK_RETURN_IF_ERROR(train::WriteProfile(flags.out, flags.name, opened.profile, flags.settings, trained));
  if (train::Frozen(flags.settings.mode)) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const model::ModelPath path, model::ResolveModelPath(flags.model));
  return train::WriteModel(flags.out + "/model", path.directory, flags.save == "bf16", learner);
}

absl::Status Report(const train::Outcome& outcome, const std::string& out) {
  using End = train::Outcome::End;
  if (outcome.end == End::kStopped) {
    return absl::CancelledError(
        absl::StrCat("stopped after step ", outcome.step, "; the same command continues from there"));
  }
  const std::string what = outcome.held_out
                               ? absl::StrFormat("step %d, held-out loss %.4f", outcome.chosen, *outcome.held_out)
                               : absl::StrCat("step ", outcome.chosen);
  if (outcome.end == End::kRuined) {
    return absl::AbortedError(absl::StrCat(outcome.why, "; ", out, " holds the last good state (", what,
                                           "); use a lower --lr and another --out"));
  }
  absl::PrintF("%s after %d steps; %s/profile.json is of %s\n",
               outcome.end == End::kEarly ? "no longer better" : "done", outcome.step, out, what);
  return absl::OkStatus();
}

absl::Status Train(Flags& flags) {
  if (flags.out.empty()) return absl::InvalidArgumentError("option --out: name a directory for what is trained");
  KVLINK_RETURN_IF_ERROR(train::CheckSettings(flags.settings));
  KVLINK_ASSIGN_OR_RETURN(const Opened opened, Open(flags));
  KVLINK_ASSIGN_OR_RETURN(flags.settings.begin, opened.tokenizer->Encode(flags.begin, /*parse_special=*/true));
  std::error_code error;
  std::filesystem::create_directories(flags.out, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("option --out ", flags.out, ": ", error.message()));
  KVLINK_ASSIGN_OR_RETURN(
      const train::SequenceMaker maker,
      train::SequenceMaker::Create(opened.tokenizer.get(), opened.chat.chat_template.get(), opened.chat.options,
                                   &opened.profile, opened.config, flags.settings.embeddings));
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<train::Learner> learner,
                          train::Learner::Create(opened.config, opened.weights.get(), flags.settings));
  const bool terminal = isatty(STDERR_FILENO) != 0;
  ProgressBar bar;
  const CatchInterrupt caught;
  train::Run run;
  run.settings = flags.settings;
  run.identity = train::IdentityOf(flags.model, opened.weights.get(), opened.config, opened.template_source,
                                   *opened.tokenizer, opened.profile);
  run.directory = flags.out;
  run.learner = learner.get();
  run.maker = &maker;
  run.mixture = &opened.mixture;
  const auto note = [&bar](absl::string_view what, absl::string_view message) {
    bar.Clear();
    std::fprintf(stderr, "[%s: %s]\n", std::string(what).c_str(), Printable(std::string(message)).c_str());
  };
  run.reader.interrupt = &SignalInterrupt();
  run.reader.max_skipped = flags.skip_damaged;
  std::set<std::string> skipped;  // files are read again and again
  run.reader.on_skipped = [&](const absl::Status& status) {
    if (skipped.emplace(status.message()).second) note("skipped", status.message());
  };
  run.left_out = [&note](const std::string& why) { note("left out, as all such examples", why); };
  run.stopped = Interrupted;
  run.progress = [&](const train::Progress& progress) {
    if (!terminal) return;
    bar.Update(progress.done,
               absl::StrCat("step ", progress.step, ", loss ", absl::StrFormat("%.4f", progress.loss),
                            progress.held_out ? absl::StrFormat(", held out %.4f", *progress.held_out) : ""));
  };
  const absl::StatusOr<train::Outcome> outcome = train::Trainer::Train(run);
  bar.Clear();
  KVLINK_RETURN_IF_ERROR(outcome.status());
  if (outcome->end == train::Outcome::End::kStopped && outcome->step == 0) return Report(*outcome, flags.out);
  KVLINK_RETURN_IF_ERROR(WriteOutputs(flags, opened, *learner));
  if (!outcome->curves.empty()) {
    const absl::Status drawn = DrawPng(outcome->curves, 900, 600, flags.out + "/curves.png");
    // The picture is an extra: without gnuplot there is none, and no other reason undoes what was learned.
    if (!drawn.ok() && !absl::IsFailedPrecondition(drawn)) note("no curves.png", drawn.message());
  }
  return Report(*outcome, flags.out);
}

template <train::Mode mode>
absl::Status RunMode(absl::Span<char* const> args) {
  Flags flags;
  train::Settings& settings = flags.settings = train::DefaultSettings(mode);
  flags.schedule = std::string(train::ScheduleName(settings.schedule));
  flags.pack = settings.pack ? "many" : "one";
  if (const std::string named = Environment("KVLINK_MODEL"); !named.empty()) flags.model = named;
  Arguments arguments(train::ModeName(mode), "", absl::StrCat(kOutputs, train::Frozen(mode) ? kFrozen : kLearning),
                      "kvlink-train");
  AddFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments.operands()[0], "'"));
  }
  KVLINK_ASSIGN_OR_RETURN(settings.schedule, train::ParseSchedule(flags.schedule));
  settings.pack = flags.pack == "many";
  settings.device = flags.device != "auto" ? flags.device : train::Learner::HasCuda() ? "cuda" : "cpu";
  settings.bf16 = flags.compute == "bf16" || (flags.compute == "auto" && settings.device == "cuda");
  settings.seed = static_cast<uint64_t>(flags.seed);
  return Train(flags);
}

constexpr Command kCommands[] = {
    {"wrapper", RunMode<train::Mode::kWrapper>, "tokens around each document, which are stored with it"},
    {"links", RunMode<train::Mode::kLinks>, "tokens behind each document, which every request computes"},
    {"wrapper+links", RunMode<train::Mode::kWrapperLinks>, "both"},
    {"lora", RunMode<train::Mode::kLora>, "low-rank changes of the model, and links"},
    {"full", RunMode<train::Mode::kFull>, "the whole model, and links"},
};

}  // namespace
}  // namespace kvlink::cli

int main(int argc, char** argv) {
  return kvlink::cli::RunProgram(
      {.name = "kvlink-train",
       .introduction =
           "Tunes a model, or tokens around documents, for documents that are read from their encodings:\n\n"
           "  kvlink-train wrapper --out tuned\n"
           "  kvlink ingest --profile tuned/profile.json documents.jsonl\n"
           "  kvlink ask --profile tuned/profile.json --linker packet --doc moon \"How old is it?\"\n\n",
       .commands = kvlink::cli::kCommands,
       .closing = "KVLINK_MODEL sets the default model.\n"},
      argc, argv);
}
