// The parts of a stored document that a question is about. A document too long for one encoding has several.
// Thread-safety: a plain value and pure functions.
#ifndef KVLINK_WORKER_CLI_DOCUMENT_PARTS_H_
#define KVLINK_WORKER_CLI_DOCUMENT_PARTS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::cli {

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

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_DOCUMENT_PARTS_H_
