// A file of the documents that a run rejected, as JSON lines:
//
//   {"where": "docs.jsonl:17", "position": 4711, "id": "...", "reason": "...", "title": "...", "text": "..."}
//
// `where` and `position` locate the document (file and line; bytes of all inputs up to its end). `id` is present if it
// was known, `title` and `text` if they could be read: such a line can be corrected and ingested as it is.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_REJECTS_H_
#define KVLINK_WORKER_INGEST_REJECTS_H_

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/own_file.h"
#include "worker/ingest/ingest.h"

namespace kvlink::ingest {

// Returns where rejects for `path` are written until they are complete.
std::string PartialOf(const std::string& path);

class RejectFile {
 public:
  // Writes `path`.partial, which replaces `path` when complete. Neither may be an input of the run.
  // INVALID_ARGUMENT: `path` is a directory. FAILED_PRECONDITION: another process writes `path`.partial.
  // PERMISSION_DENIED, NOT_FOUND and the like naming the file.
  static absl::StatusOr<std::unique_ptr<RejectFile>> Create(const std::string& path);
  // RESOURCE_EXHAUSTED and the like naming the file.
  absl::Status Add(const Failure& failure);
  // Without it, added lines are left in `path`.partial.
  absl::Status Finish();

 private:
  RejectFile(std::string path, std::string partial, OwnFile file)
      : path_(std::move(path)), partial_(std::move(partial)), file_(std::move(file)) {}
  absl::Status Fail() const;

  const std::string path_, partial_;
  OwnFile file_;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_REJECTS_H_
