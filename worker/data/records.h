// The records of a file, one at a time: its lines, or the elements of the one JSON array that it consists of. Private
// to worker/data. Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_DATA_RECORDS_H_
#define KVLINK_WORKER_DATA_RECORDS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/ingest/source/byte_stream.h"

namespace kvlink::data {

struct Record {
  std::string text;
  std::string where;      // "FILE:LINE" or "FILE, element N"
  int64_t number = 0;     // of the line or element, from 1
  bool too_long = false;  // `text` is only its beginning
};

class Records {
 public:
  // Looks for an array only if `arrays`. `interrupt` and errors: of ByteStream::Open and Read.
  static absl::StatusOr<std::unique_ptr<Records>> Open(const std::string& path, bool arrays, int64_t max_bytes,
                                                       const ingest::Interrupt* interrupt = nullptr);
  virtual ~Records() = default;

  // nullopt at the end. INVALID_ARGUMENT, after which there are no more: the array does not end, something stands
  // between its elements or after it. Errors of ByteStream::Read.
  virtual absl::StatusOr<std::optional<Record>> Next() = 0;
};

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_RECORDS_H_
