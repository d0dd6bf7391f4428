// kvlink eval: answers many questions with several linkers and prints how good the answers are. Results are appended to
// a file one by one, so that a run of hours can be interrupted.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/checksum.h"
#include "base/cli/gnuplot.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "worker/cli/ask_session.h"
#include "worker/cli/commands.h"
#include "worker/cli/eval_tasks.h"
#include "worker/cli/interrupt.h"
#include "worker/cli/questions.h"
#include "worker/data/question_generator.h"
#include "worker/eval/plot.h"
#include "worker/eval/report.h"
#include "worker/eval/results.h"
#include "worker/eval/runner.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kEvalSummary =
    "Answers questions with each linker and prints how good the answers are, beside full attention and\n"
    "questions without documents (closed-book): exact match (EM: the answer contains the expected text),\n"
    "F1, forced choice among candidates, divergence from full attention (KL), perplexity of long answers\n"
    "and texts, how much of what concat loses a linker recovers, time to first token, bytes read, share\n"
    "of the prompt that was computed.\n\n"
    "Questions are generated over invented entities, or read from a file of JSON lines with --questions:\n"
    "{\"question\": ..., \"documents\": [ids], \"answers\": [accepted spellings]}, as for kvlink ask; or with\n"
    "--data from the file of a public data set: hotpotqa, 2wiki, musique, nq (lost in the middle),\n"
    "triviaqa (FiD), multinews, samsum, xsum (by ROUGE-L), chat, text (by perplexity and KL), needle\n"
    "(in a plain text).\n\n"
    "With --results, each result is kept in a file at once. The same command continues an interrupted\n"
    "run; other linkers, orders, codecs, kinds or a higher --count add to it. The table shows all of it.\n\n"
    "Without --store or --cluster, documents of generated questions and --data go to a temporary store.";

constexpr int kPlotWidth = 960, kPlotHeight = 640;

struct EvalFlags {
  AskOptions ask;
  std::string questions;
  std::vector<std::string> data_files;
  int64_t skip_damaged = 0;
  std::string linkers;
  std::string codecs;
  std::string kinds;
  std::string orders = "generated";
  std::string split = "test";
  std::string names = "syllables";
  data::ItemOptions items;
  int64_t count = 20;
  int64_t seed = 1;
  std::string results;
  std::string json;
  std::string plot;
  std::string plot_orders;
  double timeout = 600;

  bool json_file() const { return !json.empty() && json != "-"; }
};

// What the flags say, checked.
struct Parsed {
  std::vector<link::Linker> linkers;
  std::vector<data::Kind> kinds;
  std::vector<eval::Order> orders;
  std::vector<Codec> codecs;
  std::vector<data::DataFile> data_files;
  DataOptions data_options;
};

// A list of names, each once. INVALID_ARGUMENT naming the option.
template <typename T>
absl::Status ParseList(absl::string_view option, const std::string& text, absl::StatusOr<T> (*parse)(absl::string_view),
                       std::vector<T>* out) {
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const absl::StatusOr<T> value = parse(absl::StripAsciiWhitespace(name));
    KVLINK_RETURN_IF_ERROR(Annotate(value.status(), absl::StrCat("option --", option)));
    if (std::find(out->begin(), out->end(), *value) == out->end()) out->push_back(*value);
  }
  return absl::OkStatus();
}

void AddFlags(Arguments& arguments, EvalFlags& flags) {
  const auto append = [](std::string* out, data::Kind kind) { absl::StrAppend(out, data::KindName(kind)); };
  flags.kinds = absl::StrJoin(data::AllKinds(), ", ", append);
  flags.ask.max_tokens = 32;
  AddStoreFlags(arguments, flags.ask.store);
  AddModelFlags(arguments, flags.ask.model);
  arguments.Text("linkers", "NAMES",
                 "How documents are combined; see kvlink ask. Default: concat, full and the profile's.",
                 &flags.linkers);
  arguments.Text("questions", "FILE", "Ask the questions in a JSON lines file instead of generated ones.",
                 &flags.questions);
  arguments.Texts("data", "NAME:FILE", "Ask what a public data set holds; may be repeated.", &flags.data_files);
  arguments.Integer("skip-damaged", "N", "Damaged examples that are skipped in each file of --data.", 0, INT64_MAX,
                    &flags.skip_damaged);
  arguments.Text("codecs", "NAMES", "Codecs of the encodings to compare. Default: the one of --codec.", &flags.codecs);
  arguments.Text("kinds", "NAMES", "Kinds of generated questions.", &flags.kinds);
  arguments.Integer("count", "N", "Questions of each kind, or of each file of --data.", 1, int64_t{1} << 30,
                    &flags.count);
  arguments.Integer("documents", "N",
                    "Documents of each question. With --data: at most so many, but all that hold the answer; default: "
                    "all.",
                    data::kMinDocuments, data::kMaxDocuments, &flags.items.documents);
  arguments.Integer("document-tokens", "N",
                    "Length of each document, approximately. With --data: longer ones are cut into several; default: "
                    "none is.",
                    data::kMinDocumentTokens, data::kMaxDocumentTokens, &flags.items.document_tokens);
  arguments.Choice("split", {"tune", "test"},
                   "tune: questions to train and to choose settings with; test: others, with other names and wordings.",
                   &flags.split);
  arguments.Choice(
      "names", {"syllables", "letters"},
      "What names are made of; letters: random ones, with --split tune, for names that no training has seen.",
      &flags.names);
  arguments.Integer("seed", "N", "Seed of the questions, and of the intervals.", 0, INT64_MAX, &flags.seed);
  arguments.Text("order", "NAMES",
                 "Orders of the documents: generated, with those that hold the answer first, middle or last, or at "
                 "random: shuffled-1, shuffled-2, and so on.",
                 &flags.orders);
  arguments.Text("system", "TEXT", "System message of the chat.", &flags.ask.system);
  arguments.Integer("max-tokens", "N", "Maximum number of tokens in an answer.", 1, 4096, &flags.ask.max_tokens);
  arguments.Text("results", "FILE", "Keep results in this file, and continue from what it holds.", &flags.results);
  arguments.Text("json", "FILE", "Write the table to this file as JSON; -: to standard output, in place of text.",
                 &flags.json);
  arguments.Text("plot", "FILE", "Draw recovery against time to first token as a PNG; needs gnuplot.", &flags.plot);
  arguments.Text("plot-orders", "FILE", "Draw quality by order of the documents as a PNG; needs gnuplot.",
                 &flags.plot_orders);
  arguments.Number("timeout", "SECONDS", "Time limit for one question with all linkers.", &flags.timeout);
  arguments.Bytes("device-memory",
                  "With --device cuda: device memory for encodings. It must hold all encodings of one question.",
                  &flags.ask.device.memory);
}

DataOptions DataOptionsOf(const EvalFlags& flags, const Arguments& arguments) {
  constexpr int64_t kBytesPerToken = 4;  // of English, approximately
  DataOptions options;
  options.reader.interrupt = &SignalInterrupt();
  options.reader.max_skipped = flags.skip_damaged;
  options.reader.on_skipped = [](const absl::Status& status) {
    std::fprintf(stderr, "[skipped: %s]\n", Printable(std::string(status.message())).c_str());
  };
  options.reader.passage_bytes = flags.items.documents * flags.items.document_tokens * kBytesPerToken;
  options.reader.needle_documents = flags.items.documents;
  options.reader.seed = static_cast<uint64_t>(flags.seed);
  if (arguments.given("documents")) options.task.max_documents = flags.items.documents;
  if (arguments.given("document-tokens")) options.task.max_document_tokens = flags.items.document_tokens;
  options.text_tokens = flags.items.document_tokens;
  options.count = flags.count;
  options.answer_tokens = flags.ask.max_tokens;
  return options;
}

absl::Status CheckCombinations(const Arguments& arguments, const Parsed& parsed) {
  for (const char* option : {"data", "kinds", "count", "documents", "document-tokens", "split", "names"}) {
    if (arguments.given("questions") && arguments.given(option)) {
      return absl::InvalidArgumentError(absl::StrCat("--questions cannot be combined with --", option));
    }
  }
  for (const eval::Order& order : parsed.orders) {
    if (arguments.given("questions") && order.needs_gold()) {
      return absl::InvalidArgumentError(absl::StrCat("--order ", eval::OrderName(order),
                                                     " needs documents that are known to hold the answer, which ",
                                                     "--questions does not name; use generated or shuffled-N"));
    }
  }
  for (const char* option : {"kinds", "split", "names"}) {
    if (arguments.given("data") && arguments.given(option)) {
      return absl::InvalidArgumentError(absl::StrCat("--data cannot be combined with --", option));
    }
  }
  if (arguments.given("codec") && arguments.given("codecs")) {
    return absl::InvalidArgumentError("--codecs cannot be combined with --codec; name all codecs in --codecs");
  }
  return absl::OkStatus();
}

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, EvalFlags& flags, Parsed& parsed) {
  AddFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", arguments.operands()[0], "': unexpected operand; --questions reads a file of questions"));
  }
  KVLINK_ASSIGN_OR_RETURN(flags.ask.tenant_secret, TenantSecret(arguments, flags.ask.store));
  if (arguments.given("linkers")) {
    KVLINK_RETURN_IF_ERROR(ParseList<link::Linker>("linkers", flags.linkers, link::ParseLinker, &parsed.linkers));
  }
  KVLINK_RETURN_IF_ERROR(ParseList<data::Kind>("kinds", flags.kinds, data::ParseKind, &parsed.kinds));
  KVLINK_RETURN_IF_ERROR(ParseList<eval::Order>("order", flags.orders, eval::ParseOrder, &parsed.orders));
  if (arguments.given("questions") && flags.questions.empty()) {
    return absl::InvalidArgumentError("--questions names no file");
  }
  KVLINK_RETURN_IF_ERROR(CheckCombinations(arguments, parsed));
  KVLINK_RETURN_IF_ERROR(ParseList<Codec>("codecs", flags.codecs.empty() ? flags.ask.store.codec : flags.codecs,
                                          ParseCodec, &parsed.codecs));
  flags.ask.store.codec = std::string(CodecName(parsed.codecs[0]));
  for (const std::string& file : flags.data_files) {
    auto parsed_file = data::ParseDataFile(file);
    KVLINK_RETURN_IF_ERROR(Annotate(parsed_file.status(), "option --data"));
    parsed.data_files.push_back(*std::move(parsed_file));
  }
  flags.items.split = flags.split == "tune" ? data::Split::kTune : data::Split::kTest;
  flags.items.names = flags.names == "letters" ? data::Names::kLetters : data::Names::kSyllables;
  if (flags.items.names == data::Names::kLetters && flags.items.split != data::Split::kTune) {
    return absl::InvalidArgumentError("--names letters needs --split tune: the split test has names of its own");
  }
  flags.items.seed = static_cast<uint64_t>(flags.seed);
  parsed.data_options = DataOptionsOf(flags, arguments);
  flags.ask.store_needed = arguments.given("questions");
  flags.ask.scratch_store = !arguments.given("questions") && !arguments.given("store") && !arguments.given("cluster");
  return absl::OkStatus();
}

std::string Digest(absl::string_view bytes) {
  return absl::StrCat(absl::Hex(Xxh3(bytes.data(), bytes.size()), absl::kZeroPad16));
}

// Of everything in a profile that affects answers.
std::string ProfileDigest(const link::LinkProfile& profile, const std::vector<float>& embeddings,
                          absl::string_view wrapper) {
  const auto id = [](const std::optional<int32_t>& token) { return token ? absl::StrCat(*token) : "none"; };
  return Digest(absl::StrCat(
      profile.links_per_document, ",", profile.slots, ",", id(profile.first_link_id), ",", id(profile.mem_start), ",",
      id(profile.mem_end), ",", static_cast<int>(profile.place), ",", profile.document_template,
      absl::string_view(reinterpret_cast<const char*>(embeddings.data()), embeddings.size() * sizeof(float)), wrapper));
}

eval::Settings SettingsOf(const EvalFlags& flags, const Parsed& parsed, AskSession& session) {
  const OpenedModel& opened = session.opened();
  eval::Settings settings = {
      {"model", opened.fingerprint.Hex()},
      {"compute", std::string(kernels::DtypeName(opened.backend->compute_dtype()))},
      {"profile", absl::StrCat(opened.profile.name, "/",
                               ProfileDigest(opened.profile, session.generator().options().link_embeddings,
                                             opened.wrapper.digest))},
      {"system", flags.ask.system},
      {"max-tokens", absl::StrCat(flags.ask.max_tokens)}};
  if (!flags.questions.empty()) {
    settings["questions"] = "file";
    return settings;
  }
  if (!parsed.data_files.empty()) {
    const eval::TaskOptions& task = parsed.data_options.task;
    settings["questions"] = "data";
    settings["documents"] = task.max_documents > 0 ? absl::StrCat(task.max_documents) : "all";
    settings["document-tokens"] = task.max_document_tokens > 0 ? absl::StrCat(task.max_document_tokens) : "whole";
    return settings;
  }
  settings["questions"] = absl::StrCat("generated/", data::kGeneratorVersion);
  settings["split"] = flags.split;
  settings["seed"] = absl::StrCat(flags.seed);
  settings["documents"] = absl::StrCat(flags.items.documents);
  settings["document-tokens"] = absl::StrCat(flags.items.document_tokens);
  if (flags.items.names == data::Names::kLetters) settings["names"] = "letters";  // earlier builds wrote no other
  return settings;
}

absl::Status RunAll(EvalTasks& tasks, const EvalFlags& flags, AskSession& session, eval::Runner& runner) {
  const infer::Limits limits{absl::Seconds(flags.timeout), Interrupted};
  const bool terminal = isatty(STDERR_FILENO) == 1;
  ProgressBar progress;
  for (int64_t i = 0; !Interrupted(); ++i) {
    if (terminal) {
      progress.Update(static_cast<double>(i) / static_cast<double>(tasks.count()),
                      absl::StrCat(i, " of ", tasks.count(), " questions"));
    }
    const absl::StatusOr<std::optional<eval::Task>> task = tasks.Next(session);
    if (Interrupted()) break;
    KVLINK_RETURN_IF_ERROR(task.status());
    if (!task->has_value()) break;
    const absl::Status status = runner.Run(**task, limits);
    if (!Interrupted()) KVLINK_RETURN_IF_ERROR(status);
  }
  if (const std::string left_out = tasks.left_out(); !left_out.empty()) {
    std::fprintf(stderr, "[left out: %s]\n", left_out.c_str());
  }
  if (!Interrupted()) return absl::OkStatus();
  return absl::CancelledError(flags.results.empty() ? "interrupted; --results would keep what is computed"
                                                    : "interrupted; run the command again to continue");
}

absl::Status WriteFile(const std::string& path, const std::string& bytes, std::ios::openmode mode) {
  std::ofstream file(path, std::ios::binary | mode);
  file << bytes;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

// Nothing without a path.
absl::Status Draw(const std::string& path, absl::StatusOr<std::string> (*plot)(absl::Span<const eval::Cell>),
                  absl::Span<const eval::Cell> cells) {
  if (path.empty()) return absl::OkStatus();
  const auto script = plot(cells);
  KVLINK_RETURN_IF_ERROR(Annotate(script.status(), path));
  return DrawPng(*script, kPlotWidth, kPlotHeight, path);
}

absl::Status Report(const EvalFlags& flags, const eval::Settings& settings, const eval::Results& results) {
  const std::vector<eval::Cell> cells = eval::Summarise(results.all(), static_cast<uint64_t>(flags.seed));
  const std::vector<eval::OrderRow> orders = eval::CompareOrders(results.all(), static_cast<uint64_t>(flags.seed));
  if (flags.json == "-") {
    absl::PrintF("%s", eval::ReportJson(settings, cells, orders));
  } else {
    absl::PrintF("%s", eval::TableText(cells));
    if (!orders.empty()) absl::PrintF("\nBy order of the documents:\n%s", eval::OrderTableText(orders));
  }
  int64_t encoded = 0;
  for (const eval::Cell& cell : cells) encoded += cell.kind == eval::kAllKinds ? 0 : cell.documents_encoded;
  if (encoded > 0) {
    std::fprintf(stderr,
                 "[%lld encodings were not in the store when they were needed: times to first token include "
                 "computing them]\n",
                 static_cast<long long>(encoded));
  }
  if (flags.json_file()) {
    KVLINK_RETURN_IF_ERROR(WriteFile(flags.json, eval::ReportJson(settings, cells, orders), std::ios::trunc));
  }
  KVLINK_RETURN_IF_ERROR(Draw(flags.plot, eval::RecoveryPlot, cells));
  return Draw(flags.plot_orders, eval::OrderPlot, cells);
}

}  // namespace

absl::Status RunEval(absl::Span<char* const> args) {
  EvalFlags flags;
  Parsed parsed;
  Arguments arguments("eval", "", kEvalSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags, parsed));
  if (arguments.help_wanted()) return absl::OkStatus();
  std::unique_ptr<EvalTasks> tasks;
  if (!flags.questions.empty()) {
    KVLINK_ASSIGN_OR_RETURN(std::vector<Question> questions, ReadQuestions(flags.questions));
    tasks = FileTasks(std::move(questions));
  } else if (!parsed.data_files.empty()) {
    KVLINK_ASSIGN_OR_RETURN(tasks, OpenDataTasks(parsed.data_files, parsed.data_options));
  } else {
    tasks = GeneratedTasks(flags.items, parsed.kinds, flags.count);
  }
  // A file that cannot be written is named now, not after hours.
  if (flags.json_file()) KVLINK_RETURN_IF_ERROR(WriteFile(flags.json, "", std::ios::app));
  if (!flags.plot.empty() || !flags.plot_orders.empty()) KVLINK_RETURN_IF_ERROR(FindGnuplot());
  KVLINK_ASSIGN_OR_RETURN(const auto session, AskSession::Open(flags.ask));
  const eval::Settings settings = SettingsOf(flags, parsed, *session);
  auto results = std::make_unique<eval::Results>();
  if (!flags.results.empty()) {
    KVLINK_ASSIGN_OR_RETURN(results, eval::Results::Open(flags.results, settings));
  }
  if (!session->note().empty()) std::fprintf(stderr, "[%s]\n", Printable(session->note()).c_str());
  KVLINK_RETURN_IF_ERROR(session->WarmUp());
  eval::RunnerOptions options;
  options.linkers = parsed.linkers;
  if (options.linkers.empty()) {
    options.linkers = {link::Linker::kConcat, link::Linker::kFull};
    const link::Linker preferred = session->opened().profile.linker;
    if (std::count(options.linkers.begin(), options.linkers.end(), preferred) == 0) {
      options.linkers.push_back(preferred);
    }
  }
  options.orders = parsed.orders;
  options.max_tokens = flags.ask.max_tokens;
  options.system = flags.ask.system;
  options.chat = session->chat_options();
  std::vector<infer::Generator*> generators = {&session->generator()};
  for (size_t i = 1; i < parsed.codecs.size(); ++i) {
    KVLINK_ASSIGN_OR_RETURN(infer::Generator * generator, session->AddGenerator(parsed.codecs[i]));
    generators.push_back(generator);
  }
  eval::Runner runner(std::move(generators), session->opened().tokenizer.get(), &session->chat_template(), options,
                      results.get());
  KVLINK_RETURN_IF_ERROR(RunAll(*tasks, flags, *session, runner));
  return Report(flags, settings, *results);
}

}  // namespace kvlink::cli
