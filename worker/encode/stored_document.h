// The stored documents that a question names: which parts of each (a document too long for one encoding has several),
// and whether a catalog entry may be used. Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_ENCODE_STORED_DOCUMENT_H_
#define KVLINK_WORKER_ENCODE_STORED_DOCUMENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/catalog.h"
#include "proto/digest.h"
#include "worker/encode/wrapper.h"

namespace kvlink::encode {

struct DocumentParts {
  std::string id;
  int64_t first = 1;            // one-based
  std::optional<int64_t> last;  // nullopt: to the end
};

// "ID=2-5", or "ID" for all parts.
std::string Spelled(const DocumentParts& parts);
// "3", "2-5" or "2-" (to the end) of a document. INVALID_ARGUMENT: anything else.
absl::StatusOr<DocumentParts> ParsePartRange(absl::string_view id, absl::string_view range);
// "ID=RANGE". An id may contain "="; the range follows the last one.
absl::StatusOr<DocumentParts> ParseDocumentParts(absl::string_view text);

// The tokens of the wanted parts of its entry, in order. OUT_OF_RANGE naming the document: it has fewer parts.
absl::StatusOr<std::vector<std::vector<int32_t>>> PartsOf(const CatalogEntry& entry, const DocumentParts& wanted);

// FAILED_PRECONDITION, naming the document and what to do, if `entry` was written by another model than `fingerprint`
// or under another secret: a user who cannot compute a document's identities must not get its encodings. Its wrapper
// may be any that it names, or the profile's, since nodes of an earlier build drop the name.
absl::Status CheckEntry(absl::string_view id, const CatalogEntry& entry, const Fingerprint& fingerprint,
                        absl::string_view tenant_secret, const Wrapper& wrapper);

}  // namespace kvlink::encode

#endif  // KVLINK_WORKER_ENCODE_STORED_DOCUMENT_H_
