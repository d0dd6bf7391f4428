// Implements `kvlink ask` and `kvlink eval`: model, store, generator, and documents by id or file.
// Thread-safety: one thread at a time. While a session exists, ^C and SIGTERM are caught (interrupt.h), so that a
// temporary store is removed: whoever works with a session asks Interrupted.
#ifndef KVLINK_WORKER_CLI_ASK_SESSION_H_
#define KVLINK_WORKER_CLI_ASK_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/cli/place.h"
#include "worker/cli/generator_flags.h"
#include "worker/cli/interrupt.h"
#include "worker/cli/open.h"
#include "worker/encode/stored_document.h"
#include "worker/infer/chat.h"
#include "worker/infer/generator.h"
#include "worker/ingest/source/document_source.h"
#include "worker/text/template/chat_template.h"

namespace kvlink::cli {

struct AskOptions {
  StoreFlags store;
  ModelFlags model;
  std::string tenant_secret;           // TenantSecret
  std::optional<link::Linker> linker;  // absent: the profile's
  std::string system;
  int64_t max_tokens = 256;
  kernels::SampleParams sampling;
  DeviceFlags device;
  bool store_needed = true;    // some document is named by id
  bool scratch_store = false;  // a temporary store, whatever `store` names
  int64_t private_tokens = 0;  // GeneratorOptions, with the linker concat
};

// A temporary directory for a store, removed with the object. Used on request, and when no store exists and the answer
// needs no stored document.
class ScratchStore {
 public:
  ScratchStore() = default;
  ~ScratchStore();
  ScratchStore(const ScratchStore&) = delete;
  ScratchStore& operator=(const ScratchStore&) = delete;
  // UNAVAILABLE, naming the directory for temporary files, if nothing can be created in it.
  absl::Status Make();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class AskSession {
 public:
  static absl::StatusOr<std::unique_ptr<AskSession>> Open(const AskOptions& options);

  // Adds parts of a catalogued document, each as a document of the request. NOT_FOUND naming it; OUT_OF_RANGE if it has
  // fewer parts; FAILED_PRECONDITION if it was written by another model or under another secret. CANCELLED:
  // interrupted.
  absl::Status AddStored(const encode::DocumentParts& wanted, std::vector<infer::RequestDocument>* documents);
  // Adds the documents of a text or JSON lines file (or a directory of these), tokenised as ingest does. CANCELLED:
  // interrupted.
  absl::Status AddFromFile(const std::string& path, std::vector<infer::RequestDocument>* documents);

  std::unique_ptr<infer::Chat> NewChat(link::Linker linker, std::vector<infer::RequestDocument> documents);
  // Runs one discarded chunk of prefill, so that scratch memory is allocated and times are comparable.
  absl::Status WarmUp();

  // A note about the store for the user, or empty.
  const std::string& note() const { return note_; }
  // A note on stored documents added since the last call that were ingested in another form than the session's linker
  // reads, inside another wrapper or none; or empty.
  std::string TakeFormNote();
  link::Linker linker() const { return options_.linker.value_or(opened_.profile.linker); }
  const OpenedModel& opened() const { return opened_; }
  const model::ChatTemplate& chat_template() const { return *chat_.chat_template; }
  const model::ChatOptions& chat_options() const { return chat_.options; }
  infer::Generator& generator() { return *generator_; }
  // Another generator, over the same model and store, with encodings of this codec; owned by the session. Errors of
  // Generator::Create.
  absl::StatusOr<infer::Generator*> AddGenerator(Codec codec);

 private:
  AskSession() = default;

  // Opens the store that the options name; false: a temporary one is to take its place.
  absl::StatusOr<bool> OpenNamed();
  absl::Status OpenScratch();

  // Documents for TakeFormNote: the first one, and how many others.
  struct OtherForm {
    std::string id;
    std::string context_digest;
    int64_t others = 0;
  };
  // Remembers a document of another form than the session's linker reads.
  void NoteForm(const std::string& id, const CatalogEntry& entry);
  // The context digest of the encodings that the session's linker reads.
  absl::string_view context_digest() const {
    return linker().packet ? absl::string_view(opened_.wrapper.digest) : absl::string_view();
  }

  AskOptions options_;
  std::string note_;
  std::optional<OtherForm> other_form_;
  // In order of lifetime.
  OpenedModel opened_;
  link::ModelChat chat_;
  std::optional<CatchInterrupt> caught_;
  ScratchStore scratch_;
  OpenedStore store_;
  std::unique_ptr<infer::Generator> generator_;
  std::vector<std::unique_ptr<infer::Generator>> more_generators_;
};

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_ASK_SESSION_H_
