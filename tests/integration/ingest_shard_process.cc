// One of several processes that ingest a corpus together, and that tests kill.
//
//   ingest_shard_process STORE MODEL INPUT SHARD LOG [prune]
//
// STORE is a node, or, if it begins with "etcd://", a cluster.
// LOG gets a line for each encoding, "E IDENTITY" before it is computed and "P IDENTITY" when it is durable: one file
// for all processes, in the order of events. At the end the process prints "ADDED SKIPPED FAILED PRUNED" on standard
// output. Status 1, with a line on standard error, if the run failed.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cpu/cpu.h"
#include "store/cli/place.h"
#include "tests/worker/infer/faulty_store.h"
#include "worker/files/open_tokenizer.h"
#include "worker/files/weights.h"
#include "worker/ingest/ingest.h"
#include "worker/ingest/prune.h"
#include "worker/model/model.h"

namespace kvlink::testing {
namespace {

class Log {
 public:
  explicit Log(const std::string& path) : file_(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) {}
  ~Log() { close(file_); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  void Add(char what, const Identity& identity) const {
    const std::string line = absl::StrCat(std::string(1, what), " ", identity.Hex(), "\n");
    if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::perror("log");
  }

 private:
  const int file_;
};

class LoggingEncoder final : public encode::Encoder {
 public:
  LoggingEncoder(std::unique_ptr<encode::Encoder> real, const Log* log) : real_(std::move(real)), log_(log) {}
  const encode::EncoderOptions& options() const override { return real_->options(); }
  Identity IdentityOf(absl::Span<const int32_t> tokens) const override { return real_->IdentityOf(tokens); }
  absl::StatusOr<std::vector<encode::Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> texts,
                                                      const Check& check) override {
    for (const auto& tokens : texts) log_->Add('E', IdentityOf(tokens));
    return real_->Encode(texts, check);
  }

 private:
  const std::unique_ptr<encode::Encoder> real_;
  const Log* const log_;
};

absl::Status Run(const std::vector<std::string>& words) {
  const Log log(words[4]);
  KVLINK_ASSIGN_OR_RETURN(const auto backend, kernels::MakeCpuBackend({.threads = 1}));
  KVLINK_ASSIGN_OR_RETURN(const auto weights, model::OpenWeights(words[1]));
  KVLINK_ASSIGN_OR_RETURN(const auto tokenizer, model::OpenTokenizer(words[1]));
  KVLINK_ASSIGN_OR_RETURN(const auto model, model::Model::Load(backend.get(), *weights, {}));
  KVLINK_ASSIGN_OR_RETURN(const Fingerprint fingerprint, encode::FingerprintOf(*weights, /*use_cache=*/false));
  KVLINK_ASSIGN_OR_RETURN(const link::LinkProfile profile, link::LoadLinkProfile("untuned"));
  encode::EncoderOptions encoder_options;
  encoder_options.batch_tokens = 256;
  KVLINK_ASSIGN_OR_RETURN(auto encoder, encode::Encoder::Create(model.get(), fingerprint, encoder_options));
  LoggingEncoder logging(std::move(encoder), &log);
  cli::StoreFlags flags;
  if (absl::StartsWith(words[0], "etcd://")) {
    flags.cluster.cluster = words[0].substr(7);
  } else {
    flags.store = words[0];
  }
  flags.memory = int64_t{64} << 20;
  KVLINK_ASSIGN_OR_RETURN(const cli::OpenedStore opened, cli::OpenStore(flags, cli::StoreUse::kExisting));
  FaultyStore store(opened.store.get());
  store.OnPut([&](const Identity& identity) { log.Add('P', identity); });
  ingest::SourceOptions source_options;
  KVLINK_ASSIGN_OR_RETURN(source_options.shard, ingest::ParseShard(words[3]));
  KVLINK_ASSIGN_OR_RETURN(const auto source, ingest::DocumentSource::Open({words[2]}, source_options));
  ingest::SeenIds seen;
  const ingest::IngestInput input{.source = source.get(),
                                  .tokenizer = tokenizer.get(),
                                  .profile = &profile,
                                  .context = model->config().context,
                                  .fingerprint = fingerprint,
                                  .encoder = &logging,
                                  .store = &store,
                                  .seen = &seen};
  ingest::IngestOptions options;
  options.queued_bytes = int64_t{128} << 10;  // keeps the bytes in flight small
  ingest::IngestCounts counts;
  KVLINK_RETURN_IF_ERROR(ingest::Ingest(input, options, {}, &counts));
  int64_t pruned = 0;
  if (words.size() > 5) {
    KVLINK_ASSIGN_OR_RETURN(pruned, ingest::Prune(&store, *source, counts, &seen, {}));
  }
  std::printf("%lld %lld %lld %lld\n", static_cast<long long>(counts.added), static_cast<long long>(counts.skipped),
              static_cast<long long>(counts.failed), static_cast<long long>(pruned));
  return absl::OkStatus();
}

}  // namespace
}  // namespace kvlink::testing

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  const absl::Status status = kvlink::testing::Run({argv + 1, argv + argc});
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
