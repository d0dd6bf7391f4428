// Turns what a client asks for into what the scheduler computes: the documents' tokens from the catalog or from their
// text, the prompt, the sampling.
//
// Thread-safety: all methods, which may wait for the store. Lifetime: the parts outlive the service.
#ifndef KVLINK_WORKER_SERVE_SERVICE_H_
#define KVLINK_WORKER_SERVE_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/grammar/filters.h"
#include "worker/infer/generator.h"
#include "worker/infer/scheduler.h"
#include "worker/ingest/chunk.h"
#include "worker/link/plan.h"
#include "worker/serve/api/request.h"
#include "worker/text/tokenizer.h"

namespace kvlink::serve {

class Service {
 public:
  struct Parts {
    infer::Generator* generator = nullptr;
    store::Store* store = nullptr;
    const model::Tokenizer* tokenizer = nullptr;
    const link::ModelChat* chat = nullptr;
    Fingerprint fingerprint;
  };
  struct Options {
    link::Linker linker;                // of requests that name none
    ingest::ChunkLimits document;       // how texts of documents are cut
    int64_t max_tokens = 0;             // of an answer, for requests that do not say; 0: as many as fit
    std::vector<std::string> models;    // names that requests may use, the one to show first
    std::vector<std::string> synonyms;  // names that are understood but not shown
  };
  Service(const Parts& parts, Options options)
      : parts_(parts), options_(std::move(options)), filters_(parts.tokenizer) {}

  // NOT_FOUND: the model of a request has another name.
  absl::Status CheckModel(absl::string_view name) const;
  const std::vector<std::string>& models() const { return options_.models; }

  // `owner`: whose turn it takes; `arrived`: when KvOptions::deadline_ms began; `catalog`: set to when the store was
  // asked for documents, if it was. NOT_FOUND naming the documents that the catalog lacks; OUT_OF_RANGE: a part that a
  // document lacks. INVALID_ARGUMENT: what does not fit into the model's context, what is wrong with a linker, a text
  // or a chat. FAILED_PRECONDITION: a document of another model or secret, an encoding that the store lacks with
  // OnMiss::kFail, a chat that the template refuses. RESOURCE_EXHAUSTED: as grammar::Filters. DEADLINE_EXCEEDED: the
  // request's own. Errors of the store, as Heard.
  absl::StatusOr<infer::Scheduler::Job> JobOf(const CompletionRequest& request, const std::string& owner,
                                              absl::Time arrived, infer::Phase* catalog) const;
  // Whether JobOf asks the store.
  static bool AsksStore(const CompletionRequest& request);

  struct Prefetch {
    std::vector<std::string> unknown;                 // ids that the catalog lacks
    int64_t resident = 0, found = 0, missing = 0;     // encodings in memory, in the store, and nowhere
    std::vector<infer::ResidentPool::Wanted> wanted;  // of those found, as far as half of the memory has room
  };
  // Where the encodings of these documents are. Errors of JobOf, but NOT_FOUND.
  absl::StatusOr<Prefetch> PrefetchOf(const PrefetchRequest& request) const;

  // Around each call of the store. UNAVAILABLE, at once, for a second after one that the store did not answer in time:
  // so those that wait behind it do not wait as long, one after another.
  absl::Status MayAsk() const;
  // What a client is told of the store's answer: that it failed, without the reason, which may name files of this host
  // and stays beside it (CauseOf). A timeout of the store's own is UNAVAILABLE.
  absl::Status Heard(const absl::Status& answer) const;

  // Of a text by itself. INVALID_ARGUMENT: it is not UTF-8, or could not fit into the model's context.
  absl::StatusOr<std::vector<int32_t>> Tokenize(absl::string_view text) const;
  const Parts& parts() const { return parts_; }

 private:
  // The least tokens that a text can have; before it is tokenised.
  absl::Status CheckBytes(int64_t bytes) const;
  // The parts of the documents; those of texts have the secret of the salt's group. `unknown`: receives the ids that
  // the catalog lacks, which are left out; nullptr: they are an error.
  absl::StatusOr<std::vector<infer::RequestDocument>> DocumentsOf(const std::vector<DocumentReference>& references,
                                                                  absl::string_view salt, infer::Phase* catalog,
                                                                  std::vector<std::string>* unknown) const;
  absl::StatusOr<link::PromptTokens> PromptOf(const CompletionRequest& request) const;
  std::vector<Identity> IdentitiesOf(const std::vector<infer::RequestDocument>& documents,
                                     const link::Linker& linker) const;
  // Asks the store for all encodings at once.
  absl::StatusOr<std::vector<store::Found>> LookUp(const std::vector<Identity>& identities) const;
  // With OnMiss::kFail.
  absl::Status CheckStored(const std::vector<infer::RequestDocument>& documents, const link::Linker& linker) const;
  // With OnMiss::kText: makes documents that have no encoding text. A store that does not answer has none.
  void MakeText(const link::Linker& linker, std::vector<infer::RequestDocument>* documents) const;

  const Parts parts_;
  const Options options_;
  mutable grammar::Filters filters_;
  mutable std::atomic<int64_t> silent_until_{0};  // SteadyNow() in nanoseconds
};

// The secret that names the encodings of a sharing group (docs/formats.md "Identity"); empty for no salt.
std::string SharingSecret(absl::string_view tenant_secret, absl::string_view salt);

// The tokens of a prompt before it is computed, without link tokens.
int64_t PromptTokensOf(const infer::Request& request, const infer::GeneratorOptions& options);
Usage UsageOf(const infer::RequestStats& stats, int64_t completion_tokens);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_SERVICE_H_
