// Writes documents when they come, with the same result as an ingest of them: the same parts, the same
// encodings, the same catalog entry. What is there already is not computed again.
//
// Thread-safety: all methods; documents written at the same time take turns, pass by pass. Lifetime: what the input
// points to outlives the object.
#ifndef KVLINK_WORKER_INGEST_DOCUMENT_WRITER_H_
#define KVLINK_WORKER_INGEST_DOCUMENT_WRITER_H_

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/ingest/chunk.h"
#include "worker/ingest/content.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

struct Document;

struct WriterInput {
  const model::Tokenizer* tokenizer = nullptr;
  const link::LinkProfile* profile = nullptr;
  ChunkLimits limits;
  Fingerprint fingerprint;
  encode::Encoder* encoder = nullptr;
  store::Store* store = nullptr;
  std::string ns = "default";
};

class DocumentWriter {
 public:
  explicit DocumentWriter(const WriterInput& input);

  struct Limits {
    absl::Time deadline = absl::InfiniteFuture();  // SteadyNow() time
    std::function<bool()> cancelled;               // asked before every layer of a pass; may be empty
  };
  struct Written {
    bool created = false;    // there was no such document
    bool unchanged = false;  // it was complete: nothing was written
    uint64_t generation = 0;
    int64_t parts = 0;
    int64_t tokens = 0;   // of all parts
    int64_t encoded = 0;  // parts computed by this call
  };
  // Returns once the document is durable. INVALID_ARGUMENT: a malformed id, a document that is empty, too large for an
  // entry, or not UTF-8. FAILED_PRECONDITION: another writer has put a later version meanwhile. DEADLINE_EXCEEDED,
  // CANCELLED, and errors of encoder and store: encodings stored by then remain, and a repeated call goes on from them.
  absl::StatusOr<Written> Write(const std::string& id, const std::string& title, const std::string& text,
                                const Limits& limits);

 private:
  // Whether all encodings of an entry are in the store.
  absl::StatusOr<bool> HasEncodings(const CatalogEntry& entry);
  // Encodes and stores the parts that the store lacks; returns how many.
  absl::StatusOr<int64_t> StoreParts(const Document& document, const Limits& limits);
  // When it is the call's turn.
  absl::StatusOr<std::vector<encode::Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> group,
                                                      const Limits& limits);

  const WriterInput input_;
  const ContentDigester digester_;
  Mutex mutex_;
  CondVar changed_;
  std::list<int> turns_ ABSL_GUARDED_BY(mutex_);  // of calls that encode or wait for it; the first has the encoder
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_DOCUMENT_WRITER_H_
