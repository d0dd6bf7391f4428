// The members of each JSON format, as worker/data/reader.h lists them. Private to worker/data.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_DATA_FORMATS_H_
#define KVLINK_WORKER_DATA_FORMATS_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/data/reader.h"

namespace kvlink::data {

// `record`: a JSON object. The id is left empty where the record has none. INVALID_ARGUMENT naming the byte or the
// member and what was expected there. REQUIRES: a format other than needle.
absl::StatusOr<Example> ParseExample(Format format, const std::string& record);

// An example of multinews from its two members, or from a line of each of its two files.
Summary MultiNewsSummary(absl::string_view document, absl::string_view summary);

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_FORMATS_H_
