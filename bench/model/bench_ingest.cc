// The cost of a second run over a corpus, with no changes and with one changed document in a hundred, compared with
// merely reading the corpus, which no run can beat.
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "kernels/cpu/cpu.h"
#include "store/embedded/embedded.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"
#include "worker/files/weights.h"
#include "worker/ingest/ingest.h"
#include "worker/model/model.h"

namespace kvlink::bench {
namespace {

class Corpus {
 public:
  Corpus(std::string path, int64_t documents, int64_t bytes)
      : path_(std::move(path)), count_(documents), bytes_(bytes) {}
  const std::string& path() const { return path_; }
  // Every `every`th document has another version; 0: none.
  void Write(int64_t every) const {
    static constexpr const char* kWords[] = {"river", "stone",  "of",   "the",  "winter", "a",   "market", "and",
                                             "light", "seldom", "with", "went", "north",  "old", "seven",  "to"};
    std::ofstream file(path_, std::ios::binary);
    for (int64_t i = 0; i < count_; ++i) {
      const bool changed = every > 0 && i % every == 0;
      std::string text = absl::StrCat(changed ? "Changed" : "Document", " number ", i, ".");
      for (uint64_t n = static_cast<uint64_t>(i) * 7919; static_cast<int64_t>(text.size()) < bytes_; n = n * 31 + 7) {
        absl::StrAppend(&text, " ", kWords[(n >> 8) % 16], n % 11 == 0 ? "." : "");
      }
      file << "{\"id\": \"d" << i << "\", \"title\": \"Number " << i << "\", \"text\": \"" << text << "\"}\n";
    }
  }

 private:
  const std::string path_;
  const int64_t count_, bytes_;
};

struct Parts {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;
  link::LinkProfile profile;
  std::unique_ptr<encode::Encoder> encoder;
  std::unique_ptr<store::Store> store;
};

absl::StatusOr<Parts> Open(const std::string& directory, const std::string& model_path) {
  Parts parts;
  std::string path = model_path;
  if (path.empty()) {
    path = absl::StrCat(directory, "/model");
    KVLINK_RETURN_IF_ERROR(testing::WriteTinyModel(path, {.layers = 2}));
  }
  KVLINK_ASSIGN_OR_RETURN(parts.backend, kernels::MakeCpuBackend({}));
  KVLINK_ASSIGN_OR_RETURN(const auto weights, model::OpenWeights(path));
  KVLINK_ASSIGN_OR_RETURN(parts.tokenizer, model::OpenTokenizer(path));
  KVLINK_ASSIGN_OR_RETURN(parts.model, model::Model::Load(parts.backend.get(), *weights, {}));
  KVLINK_ASSIGN_OR_RETURN(parts.fingerprint, encode::FingerprintOf(*weights, /*use_cache=*/!model_path.empty()));
  KVLINK_ASSIGN_OR_RETURN(parts.profile, link::LoadLinkProfile("untuned"));
  KVLINK_ASSIGN_OR_RETURN(parts.encoder, encode::Encoder::Create(parts.model.get(), parts.fingerprint, {}));
  store::EmbeddedOptions options;
  options.dram_bytes = int64_t{256} << 20;
  options.capacity_bytes = int64_t{64} << 30;
  KVLINK_ASSIGN_OR_RETURN(parts.store, store::OpenEmbedded(absl::StrCat(directory, "/store"), options));
  return parts;
}

struct Outcome {
  double seconds = 0;
  ingest::IngestCounts counts;
};

absl::StatusOr<Outcome> Ingest(const Parts& parts, const Corpus& corpus) {
  Outcome outcome;
  const double begin = Now();
  KVLINK_ASSIGN_OR_RETURN(const auto source, ingest::DocumentSource::Open({corpus.path()}, {}));
  const ingest::IngestInput input{.source = source.get(),
                                  .tokenizer = parts.tokenizer.get(),
                                  .profile = &parts.profile,
                                  .context = parts.model->config().context,
                                  .fingerprint = parts.fingerprint,
                                  .encoder = parts.encoder.get(),
                                  .store = parts.store.get()};
  KVLINK_RETURN_IF_ERROR(ingest::Ingest(input, {}, {}, &outcome.counts));
  outcome.seconds = Now() - begin;
  return outcome;
}

absl::StatusOr<double> ReadOnly(const Corpus& corpus) {
  const double begin = Now();
  KVLINK_ASSIGN_OR_RETURN(const auto source, ingest::DocumentSource::Open({corpus.path()}, {}));
  while (const auto item = source->Next()) KVLINK_RETURN_IF_ERROR(item->status);
  return Now() - begin;
}

absl::Status Measure(const Flags& flags, Report* report) {
  const int64_t documents = flags.GetInt("documents", 20000);
  KVLINK_ASSIGN_OR_RETURN(const Scratch scratch, Scratch::Make(flags.Get("dir", "")));
  const Corpus corpus(absl::StrCat(scratch.path(), "/corpus.jsonl"), documents, flags.GetInt("bytes", 800));
  KVLINK_ASSIGN_OR_RETURN(const Parts parts, Open(scratch.path(), flags.Get("model", "")));
  corpus.Write(0);
  KVLINK_ASSIGN_OR_RETURN(const Outcome first, Ingest(parts, corpus));
  report->Add("first run", first.seconds, "s");
  report->Add("encoded by it", static_cast<double>(first.counts.tokens) / first.seconds, "tokens/s");
  std::vector<double> second, bare;
  Outcome unchanged;
  for (int64_t i = 0; i < flags.GetInt("rounds", 5); ++i) {
    KVLINK_ASSIGN_OR_RETURN(const double seconds, ReadOnly(corpus));
    bare.push_back(seconds);
    KVLINK_ASSIGN_OR_RETURN(unchanged, Ingest(parts, corpus));
    second.push_back(unchanged.seconds);
  }
  report->Add("second run, nothing changed", Median(second), "s");
  report->Add("documents skipped", static_cast<double>(unchanged.counts.skipped) / Median(second), "1/s");
  report->Add("first run / second run", first.seconds / Median(second), "x", Target{50});
  report->Add("reading alone", Median(bare), "s");
  report->Add("second run / reading alone", 1 / MedianRatio(bare, second), "x");
  report->Add("encoded by the second run", static_cast<double>(unchanged.counts.encodings), "", Target{0, true});
  corpus.Write(100);
  KVLINK_ASSIGN_OR_RETURN(const Outcome third, Ingest(parts, corpus));
  report->Add("third run, 1% changed", third.seconds, "s");
  report->Add("first run / third run", first.seconds / third.seconds, "x");
  report->Add("encoded by it beyond 1%",
              static_cast<double>(third.counts.encodings) - static_cast<double>((documents + 99) / 100), "",
              Target{0, true});
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const auto flags =
      Flags::Parse(argc, argv, "Runs of ingest over a corpus that did not change, or hardly.",
                   {{{"documents", "N", "Documents of the corpus (default 20000)."},
                     {"bytes", "N", "Bytes of each text (default 800)."},
                     {"rounds", "N", "Second runs (default 5)."},
                     {"model", "PATH", "A model (default: a tiny one, which encodes as fast as nothing else)."},
                     kScratchFlag}});
  if (!flags.ok()) {
    std::fprintf(stderr, "bench_ingest: %s\n", std::string(flags.status().message()).c_str());
    return 2;
  }
  if (flags->help_wanted()) return 0;
  Report report("ingest over a corpus");
  if (const absl::Status status = Measure(*flags, &report); !status.ok()) {
    std::fprintf(stderr, "bench_ingest: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
