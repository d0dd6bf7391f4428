// Requests about many documents: their bodies, as JSON. Errors: INVALID_ARGUMENT, naming the member that is wrong or
// too large (errors.h). Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_API_DOCUMENTS_H_
#define KVLINK_WORKER_SERVE_API_DOCUMENTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

// {"documents": [{"id": "...", "title": "...", "text": "..."}, {"id": "...", "delete": true}]}.
absl::StatusOr<std::vector<DocumentChange>> ParseBatch(absl::string_view body);
// {"documents": ["id", {"id": "...", "parts": "2-5"}, {"title": "...", "text": "..."}], "linker": ..., "cache_salt":
// ...}.
absl::StatusOr<PrefetchRequest> ParsePrefetch(absl::string_view body);
// {"documents": ["id", {"id": "..."}]}.
absl::StatusOr<std::vector<std::string>> ParseDocumentIds(absl::string_view body);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_DOCUMENTS_H_
