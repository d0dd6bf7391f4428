// Plain text in passages that end where paragraphs, sentences or words end, and needles hidden in them. Private to
// worker/data.
// Thread-safety: pure functions; Passages: one thread at a time.
#ifndef KVLINK_WORKER_DATA_PASSAGES_H_
#define KVLINK_WORKER_DATA_PASSAGES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/example.h"
#include "worker/data/random.h"
#include "worker/ingest/source/byte_stream.h"

namespace kvlink::data {

class Passages {
 public:
  // Takes ownership of `stream`. Passages have at most `max_bytes`. REQUIRES: max_bytes > 0.
  Passages(std::unique_ptr<ingest::ByteStream> stream, int64_t max_bytes)
      : stream_(std::move(stream)), max_bytes_(static_cast<size_t>(max_bytes)) {}

  struct Passage {
    std::string text;    // without surrounding space, not empty
    int64_t offset = 0;  // of its first byte in the decompressed file
  };
  // nullopt at the end. Errors of ByteStream::Read.
  absl::StatusOr<std::optional<Passage>> Next();

 private:
  const std::unique_ptr<ingest::ByteStream> stream_;
  const size_t max_bytes_;
  std::string pending_;
  int64_t offset_ = 0;  // of `pending_`
  bool ended_ = false;
};

// Where to cut `text` so that the first part has at most `max_bytes`: after the last paragraph, line, sentence or word
// of its second half, or between two characters; one character is longer if it must. text.size() if all fits. REQUIRES:
// max_bytes > 0.
size_t CutBefore(absl::string_view text, size_t max_bytes);

// A question for a fact that stands at `depth` percent of a passage, cut into at most `documents`. Neither the fact's
// subject nor its number stands elsewhere in the passage. REQUIRES: 0 <= depth <= 100, documents > 0.
Question NeedleQuestion(absl::string_view passage, int64_t depth, int64_t documents, Random& random);

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_PASSAGES_H_
