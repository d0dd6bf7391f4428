// Ingests JSON lines into a separate store with a tiny model. Shared by the tests of this folder.
#ifndef KVLINK_TESTS_WORKER_INGEST_INGEST_FIXTURE_H_
#define KVLINK_TESTS_WORKER_INGEST_INGEST_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/ref/ref.h"
#include "store/embedded/embedded.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"
#include "worker/files/weights.h"
#include "worker/ingest/ingest.h"
#include "worker/ingest/prune.h"
#include "worker/ingest/rejects.h"
#include "worker/ingest/seen_ids.h"
#include "worker/model/model.h"

namespace kvlink::ingest {

class IngestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("ingest_", getpid());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    profile_ = *link::LoadLinkProfile("untuned");
    UseModel(1);
    OpenStore();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(root_);
  }

  void UseModel(uint64_t seed) {
    kvlink::testing::TinyModelOptions options;
    options.seed = seed;
    options.layers = 2;
    options.context = 256;
    const std::string directory = (root_ / absl::StrCat("model", seed)).string();
    ASSERT_TRUE(kvlink::testing::WriteTinyModel(directory, options).ok());
    const auto weights = model::OpenWeights(directory);
    ASSERT_TRUE(weights.ok()) << weights.status();
    tokenizer_ = *model::OpenTokenizer(directory);
    model_ = *model::Model::Load(backend_.get(), **weights, {});
    fingerprint_ = *encode::FingerprintOf(**weights, false);
    encode::EncoderOptions encoder_options;
    encoder_options.batch_tokens = 128;
    encoder_ = *encode::Encoder::Create(model_.get(), fingerprint_, encoder_options);
  }
  void OpenStore(int64_t capacity = int64_t{1} << 30) {
    store_.reset();
    store::EmbeddedOptions options;
    options.dram_bytes = 64 << 20;
    options.capacity_bytes = capacity;
    auto opened = store::OpenEmbedded((root_ / "store").string(), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  static std::string Line(const std::string& id, const std::string& text, const std::string& title = "T") {
    return absl::StrCat("{\"id\":\"", id, "\",\"title\":\"", title, "\",\"text\":\"", text, "\"}\n");
  }

  absl::Status Run(const std::string& lines, const IngestOptions& options = {}) {
    const std::string path = (root_ / "in.jsonl").string();
    std::ofstream(path, std::ios::binary) << lines;
    SourceOptions source_options;
    source_options.shard = shard_;
    auto source = DocumentSource::Open({path}, source_options);
    EXPECT_TRUE(source.ok()) << source.status();
    failures_.clear();
    source_ = *std::move(source);
    seen_ = std::make_unique<SeenIds>(/*run=*/7);
    IngestInput input{source_.get(),
                      tokenizer_.get(),
                      &profile_,
                      model_->config().context,
                      fingerprint_,
                      encoder_.get(),
                      through_ != nullptr ? through_ : store_.get(),
                      seen_.get()};
    IngestCallbacks callbacks;
    callbacks.failed = [this](const Failure& failure) {
      failures_.push_back(absl::StrCat(failure.where.substr(failure.where.rfind(':') + 1), " ", failure.id, " ",
                                       failure.status.message()));
      if (rejects_ != nullptr) return rejects_->Add(failure);
      return absl::OkStatus();
    };
    callbacks.progress = progress_;
    return Ingest(input, options, callbacks, &counts_);
  }
  // After Run.
  absl::StatusOr<int64_t> PruneAll(const PruneOptions& options = {}) {
    return Prune(through_ != nullptr ? through_ : store_.get(), *source_, counts_, seen_.get(), options);
  }
  std::vector<std::string> Ids() {
    std::vector<std::string> ids;
    const auto documents = store_->ListDocuments("default", "", 10000);
    EXPECT_TRUE(documents.ok()) << documents.status();
    if (!documents.ok()) return ids;
    for (const store::DocumentInfo& document : *documents) ids.push_back(document.id);
    return ids;
  }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::MakeRefBackend();
  std::filesystem::path root_;
  link::LinkProfile profile_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<model::Model> model_;
  Fingerprint fingerprint_;
  std::unique_ptr<encode::Encoder> encoder_;
  std::unique_ptr<store::Store> store_;
  store::Store* through_ = nullptr;  // in front of store_, for Run and PruneAll
  std::function<void(const IngestCounts&)> progress_;
  Shard shard_;
  std::unique_ptr<DocumentSource> source_;  // of the last run
  std::unique_ptr<SeenIds> seen_;
  std::unique_ptr<RejectFile> rejects_;
  std::vector<std::string> failures_;
  IngestCounts counts_;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_TESTS_WORKER_INGEST_INGEST_FIXTURE_H_
