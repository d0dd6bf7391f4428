// Time to first token: a full prefill, linked answers from the DRAM tier, and linked answers from segments with nothing
// cached, including loading and verification; preceded by the floor given by the machine's measured speed. Documents
// have 512 tokens; `concat` computes exactly 64 fresh tokens, `links` (N=5, synthetic embeddings) five more per
// document. Then measures decoding.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/ceilings.h"
#include "bench/model/bench_model.h"
#include "bench/model/pass_cost.h"
#include "worker/infer/generator.h"

namespace kvlink::bench {
namespace {

constexpr int64_t kDocumentTokens = 512;
constexpr int64_t kFreshTokens = 64;
constexpr int64_t kLinks = 5;
constexpr int64_t kDecodeTokens = 32;

// N = 5 untrained links, which cost the same as trained ones.
link::LinkProfile SyntheticLinks() {
  link::LinkProfile profile;
  profile.name = "synthetic";
  profile.links_per_document = kLinks;
  profile.slots = 40;
  return profile;
}

absl::StatusOr<std::unique_ptr<infer::Generator>> MakeGenerator(const BenchModel& bench, store::Store* store) {
  const model::ModelConfig& config = bench.model->config();
  infer::GeneratorOptions options;
  options.profile = SyntheticLinks();
  options.link_embeddings.resize(options.profile.slots * kLinks * config.hidden);
  for (size_t i = 0; i < options.link_embeddings.size(); ++i) {
    options.link_embeddings[i] = 0.02f * static_cast<float>(static_cast<int>(i * 7919 % 201) - 100) / 100;
  }
  options.private_tokens = config.context;
  options.resident_budget_bytes = 0;  // every request asks the store
  options.write_back_bytes = int64_t{2} << 30;
  return infer::Generator::Create(bench.model.get(), bench.fingerprint, store, options);
}

infer::Request RequestOf(const BenchModel& bench, const std::vector<std::vector<int32_t>>& documents, int64_t count,
                         link::Linker linker) {
  infer::Request request;
  request.linker = linker;
  request.allow_untrained_links = true;
  const auto around = DocumentsOf(bench, 1, kFreshTokens)[0];
  request.prompt.before.assign(around.begin(), around.begin() + kFreshTokens / 2);
  request.prompt.after.assign(around.begin() + kFreshTokens / 2, around.end());
  for (int64_t i = 0; i < count; ++i) request.documents.push_back({documents[i]});
  return request;
}

// The fastest rates seen during the run: the machine may be shared, and a floor must hold for all rounds.
struct Best {
  double gflops = 0;
  double read_gbps = 0;
};

// The least time for any implementation: the operations of the fresh tokens at the measured FLOP/s, or the bytes to
// read at the measured bandwidth, whichever takes longer.
double Floor(const model::ModelConfig& config, const Best& best, const PassShape& pass, int64_t cached) {
  const double bytes = 4 * Weights(config) + KvBytes(config) * static_cast<double>(cached);
  return std::max(PassOperations(config, pass) / (1e9 * best.gflops), bytes / (1e9 * best.read_gbps));
}

// Links follow their document, and see it and everything before.
PassShape LinksPass(int64_t documents) {
  PassShape pass = ConcatPass(kFreshTokens, documents * kDocumentTokens);
  const int64_t links = documents * kLinks;
  for (int64_t i = 1; i <= documents; ++i) pass.pairs += static_cast<double>(kLinks * i * kDocumentTokens);
  pass.pairs += CausalPairs(kFreshTokens + links) - CausalPairs(kFreshTokens);
  pass.rows += links, pass.last_keys += links;
  return pass;
}

// Seconds to the first token, for each way.
struct Times {
  std::vector<double> full, dram, segments, links_dram, links_segments;
};

class Bench {
 public:
  Bench(const BenchModel& model, store::Store* store, infer::Generator* generator, Report* report)
      : model_(model), store_(store), generator_(generator), report_(report), ceilings_(model.threads) {}

  absl::Status Prepare(int64_t documents) {
    documents_ = DocumentsOf(model_, documents, kDocumentTokens);
    // One by one: the DRAM tier must hold a request's documents together with those being written.
    for (const auto& document : documents_) {
      infer::Request request = RequestOf(model_, {document}, 1, link::Linker::kConcat);
      KVLINK_RETURN_IF_ERROR(generator_->Start(request).status());
    }
    if (!generator_->DrainWriteBack(SteadyNow() + absl::Minutes(5)))
      return absl::DeadlineExceededError("writes take too long");
    const auto stats = generator_->stats().write_back;
    if (stats.failed + stats.refused > 0) return absl::InternalError(absl::StrCat("writing: ", stats.last_error));
    return absl::OkStatus();
  }

  absl::Status Context(int64_t tokens, int rounds) {
    const int64_t count = tokens / kDocumentTokens;
    Times times;
    // The first round allocates scratch memory and is not counted.
    for (int round = 0; round <= rounds; ++round) {
      Times once;
      KVLINK_RETURN_IF_ERROR(First(count, link::Linker::kFull, store::Tier::kNone, &once.full));
      KVLINK_RETURN_IF_ERROR(First(count, link::Linker::kConcat, store::Tier::kDisk, &once.segments));
      KVLINK_RETURN_IF_ERROR(First(count, link::Linker::kConcat, store::Tier::kDram, &once.dram));
      KVLINK_RETURN_IF_ERROR(First(count, link::Linker::kLinks, store::Tier::kDisk, &once.links_segments));
      KVLINK_RETURN_IF_ERROR(First(count, link::Linker::kLinks, store::Tier::kDram, &once.links_dram));
      if (round == 0) continue;
      best_.gflops = std::max(best_.gflops, ceilings_.FmaGflops());
      best_.read_gbps = std::max(best_.read_gbps, ceilings_.ReadGbps(Ceilings::kUncached));
      times.full.push_back(once.full[0]);
      times.dram.push_back(once.dram[0]);
      times.segments.push_back(once.segments[0]);
      times.links_dram.push_back(once.links_dram[0]);
      times.links_segments.push_back(once.links_segments[0]);
    }
    Print(tokens, times);
    return absl::OkStatus();
  }

  // Tokens per second after the first one: alone, and for four conversations over the same documents at once.
  absl::Status Decode(int64_t tokens) {
    const infer::Request request = RequestOf(model_, documents_, tokens / kDocumentTokens, link::Linker::kConcat);
    report_->Section(absl::StrCat("Decode over ", tokens, " tokens of context"));
    for (int batch : {1, 4}) {
      std::vector<std::unique_ptr<infer::Conversation>> held;
      std::vector<infer::Conversation*> conversations;
      for (int i = 0; i < batch; ++i) {
        KVLINK_ASSIGN_OR_RETURN(auto conversation, generator_->Start(request));
        held.push_back(std::move(conversation));
        conversations.push_back(held.back().get());
      }
      KVLINK_RETURN_IF_ERROR(generator_->StepBatch(conversations, {}));
      const double began = Now();
      for (int64_t i = 0; i < kDecodeTokens; ++i) KVLINK_RETURN_IF_ERROR(generator_->StepBatch(conversations, {}));
      report_->Add(absl::StrCat("decode, batch of ", batch),
                   static_cast<double>(batch * kDecodeTokens) / (Now() - began), "tokens/s");
    }
    return absl::OkStatus();
  }

  const Best& best() const { return best_; }

 private:
  // Seconds to the first token; the documents must come from `from`.
  absl::Status First(int64_t count, link::Linker linker, store::Tier from, std::vector<double>* seconds) {
    generator_->pool().Clear();
    if (from == store::Tier::kDisk) store_->DropDramTier();
    const infer::Request request = RequestOf(model_, documents_, count, linker);
    KVLINK_ASSIGN_OR_RETURN(const auto conversation, generator_->Start(request));
    const infer::RequestStats& stats = conversation->stats();
    seconds->push_back(absl::ToDoubleSeconds(stats.time_to_first_token));
    const int64_t wanted_fresh = linker == link::Linker::kFull    ? count * kDocumentTokens + kFreshTokens
                                 : linker == link::Linker::kLinks ? kFreshTokens + count * kLinks
                                                                  : kFreshTokens;
    const int64_t found = from == store::Tier::kDram   ? stats.documents_dram
                          : from == store::Tier::kDisk ? stats.documents_disk
                                                       : 0;
    if (stats.fresh_tokens != wanted_fresh || (from != store::Tier::kNone && found != count)) {
      return absl::InternalError(absl::StrCat("not what should be measured: ", stats.fresh_tokens, " fresh tokens, ",
                                              found, " of ", count, " documents where they should be (",
                                              stats.documents_encoded, " encoded now)"));
    }
    return absl::OkStatus();
  }

  void Print(int64_t tokens, const Times& times) {
    const double full = Median(times.full);
    report_->Section(absl::StrCat(tokens, " tokens of documents, ", kFreshTokens, " fresh"));
    const auto line = [&](absl::string_view what, const std::vector<double>& seconds, const PassShape& pass,
                          int64_t cached) {
      report_->Add(absl::StrCat(what, " ", tokens), 1e3 * Median(seconds), "ms");
      report_->Add(absl::StrCat(what, " ", tokens, " floor"), 1e3 * Floor(model_.model->config(), best_, pass, cached),
                   "ms");
    };
    const int64_t rows = tokens + kFreshTokens;
    const PassShape concat = ConcatPass(kFreshTokens, tokens), links = LinksPass(tokens / kDocumentTokens);
    line("full prefill", times.full, {rows, CausalPairs(rows), rows}, 0);
    report_->Add(absl::StrCat("full prefill ", tokens, " rate"), static_cast<double>(rows) / full, "tokens/s");
    line("concat from DRAM", times.dram, concat, tokens);
    line("concat from segments", times.segments, concat, tokens);
    line("links from DRAM", times.links_dram, links, tokens);
    line("links from segments", times.links_segments, links, tokens);
    const auto less = [&](absl::string_view what, const std::vector<double>& seconds, double at_1k, double at_5k,
                          double at_7680) {
      std::optional<Target> target;
      if (tokens == 1024) target = Target{at_1k};
      if (tokens == 5120) target = Target{at_5k};
      if (tokens == 7680) target = Target{at_7680};
      if (at_1k == 0) target.reset();
      report_->Add(absl::StrCat(what, " ", tokens, " takes less"), 100 * (1 - Median(seconds) / full), "%", target);
    };
    less("concat from DRAM", times.dram, 85, 95, 97);
    less("concat from segments", times.segments, 0, 0, 0);
    less("links from DRAM", times.links_dram, 80, 92, 94);
    less("links from segments", times.links_segments, 0, 0, 0);
  }

  const BenchModel& model_;
  store::Store* const store_;
  infer::Generator* const generator_;
  Report* const report_;
  const Ceilings ceilings_;
  Best best_;
  std::vector<std::vector<int32_t>> documents_;
};

absl::Status Run(const Flags& flags, Report& report) {
  KVLINK_ASSIGN_OR_RETURN(const BenchModel model, OpenBenchModel(flags));
  std::vector<int64_t> contexts;
  for (absl::string_view part : absl::StrSplit(flags.Get("contexts", "1024,2048,5120,7680"), ',')) {
    int64_t tokens = 0;
    if (!absl::SimpleAtoi(part, &tokens) || tokens < kDocumentTokens || tokens % kDocumentTokens != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--contexts: '", part, "' is not a multiple of ", kDocumentTokens));
    }
    contexts.push_back(tokens);
  }
  KVLINK_ASSIGN_OR_RETURN(const auto store, BenchStore::Create(flags.Get("directory", ""), int64_t{1} << 30));
  KVLINK_ASSIGN_OR_RETURN(const auto generator, MakeGenerator(model, store->get()));
  KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store->get()->Stats());
  std::printf("store: %s\n", stats.io.c_str());
  Bench bench(model, store->get(), generator.get(), &report);
  KVLINK_RETURN_IF_ERROR(bench.Prepare(*std::max_element(contexts.begin(), contexts.end()) / kDocumentTokens));
  for (int64_t tokens : contexts)
    KVLINK_RETURN_IF_ERROR(bench.Context(tokens, static_cast<int>(flags.GetInt("rounds", 3))));
  KVLINK_RETURN_IF_ERROR(bench.Decode(std::min<int64_t>(contexts[0], 1024)));
  report.Section("The machine, at its best in this run");
  report.Add("multiply-add", bench.best().gflops, "GFLOP/s");
  report.Add("memory read", bench.best().read_gbps, "GB/s");
  return absl::OkStatus();
}

// An ordinary prefill of N tokens, or N decode steps after the last prefill; prints seconds, one per line.
absl::Status Serve(const Flags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const BenchModel model, OpenBenchModel(flags));
  KVLINK_ASSIGN_OR_RETURN(const auto generator, MakeGenerator(model, nullptr));
  std::unique_ptr<infer::Conversation> conversation;
  std::printf("ready\n");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    int64_t tokens = 0;
    if (!(words >> what >> tokens) || tokens < 1)
      return absl::InvalidArgumentError("--serve: write 'prefill N' or 'decode N'");
    double began = 0;
    if (what == "prefill") {
      conversation.reset();
      infer::Request request;
      request.linker = link::Linker::kFull;
      request.prompt.after = DocumentsOf(model, 1, tokens)[0];
      began = Now();
      KVLINK_ASSIGN_OR_RETURN(conversation, generator->Start(request));
    } else {
      if (conversation == nullptr) return absl::FailedPreconditionError("--serve: decode comes after a prefill");
      began = Now();
      for (int64_t i = 0; i < tokens; ++i) KVLINK_RETURN_IF_ERROR(generator->Step(*conversation, {}));
    }
    std::printf("%.6f\n", Now() - began);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) {
  using namespace kvlink::bench;
  const auto flags = Flags::Parse(
      argc, argv, "Measures the time to the first token: linked answers from memory and disk beside a full prefill.",
      {{"rounds", "N", "Rounds of each (default 3)."},
       {"contexts", "N,N,...", "Tokens of the documents, multiples of 512 (default 1024,2048,5120,7680)."},
       {"directory", "DIR", "Where to put the store (default: among the temporary files)."},
       {"serve", "", "Read lines 'prefill N' and 'decode N', answer each with its seconds (llama_cpp_compare.py)."},
       kModelFlag,
       kThreadsFlag,
       kComputeFlag});
  if (!flags.ok()) {
    std::fprintf(stderr, "bench_ttft: %s\n", std::string(flags.status().message()).c_str());
    return 1;
  }
  if (flags->help_wanted()) return 0;
  absl::Status status;
  int exit_code = 0;
  if (flags->Has("serve")) {
    status = Serve(*flags);
  } else {
    Report report("Time to first token");
    status = Run(*flags, report);
    if (status.ok()) exit_code = report.Finish(flags->json());
  }
  if (!status.ok()) std::fprintf(stderr, "bench_ttft: %s\n", std::string(status.message()).c_str());
  return status.ok() ? exit_code : 1;
}
