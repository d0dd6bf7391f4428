// What `kvlink ask` answers from: model, store, engine, and documents by id or file.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_CLI_ASK_SESSION_H_
#define KVLINK_WORKER_CLI_ASK_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/cli/place.h"
#include "worker/cli/open.h"
#include "worker/infer/chat.h"
#include "worker/infer/engine.h"
#include "worker/text/template/chat_template.h"

namespace kvlink::cli {

struct AskOptions {
  StoreFlags store;
  ModelFlags model;
  std::string tenant_secret;  // TenantSecret
  std::string linker = "concat";
  std::string system;
  int64_t max_tokens = 256;
  kernels::SampleParams sampling;
  int64_t device_memory = int64_t{4} << 30;     // of a device, for encodings
  int64_t host_memory = 0;                      // for copies of encodings beside a device; 0: none
  int64_t landing_memory = int64_t{512} << 20;  // of a device, where encodings land from a node; 0: none
  bool create_store = false;                    // documents of files only: a store that is not there yet is made
  int64_t private_tokens = 0;                   // EngineOptions
};

class AskSession {
 public:
  static absl::StatusOr<std::unique_ptr<AskSession>> Open(const AskOptions& options);

  // Adds the parts of a catalogued document. NOT_FOUND naming it; FAILED_PRECONDITION if another model wrote it,
  // or it was under another secret.
  absl::Status AddById(const std::string& id, std::vector<infer::RequestDocument>* documents);
  // Adds the documents of a text or JSON lines file (or directory of these), tokenised as ingest would.
  absl::Status AddFromFile(const std::string& path, std::vector<infer::RequestDocument>* documents);

  std::unique_ptr<infer::Chat> NewChat(link::Linker linker, std::vector<infer::RequestDocument> documents);
  // One chunk of prefill that counts for nothing: afterwards scratch memory is there, and times are comparable.
  absl::Status WarmUp();

  link::Linker linker() const { return linker_; }
  infer::Engine& engine() { return *engine_; }

 private:
  AskSession() = default;

  AskOptions options_;
  link::Linker linker_ = link::Linker::kConcat;
  // In the order of lifetimes.
  OpenedModel opened_;
  std::unique_ptr<model::ChatTemplate> template_;
  model::ChatOptions chat_options_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<infer::Engine> engine_;
};

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_ASK_SESSION_H_
