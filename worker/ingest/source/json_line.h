// One line of JSON lines: {"id": "...", "title": "...", "text": "..."}.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_INGEST_SOURCE_JSON_LINE_H_
#define KVLINK_WORKER_INGEST_SOURCE_JSON_LINE_H_

#include <string>

#include "absl/status/status.h"

namespace kvlink::ingest {

struct JsonLine {
  std::string id;
  std::string title;
  std::string text;
};

// `line` is valid UTF-8. The id may be an integer; the title may be missing or null; other members are ignored.
// INVALID_ARGUMENT, naming the byte or member; `out` then holds what was read before, in particular the id.
absl::Status ParseJsonLine(const std::string& line, JsonLine* out);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_JSON_LINE_H_
