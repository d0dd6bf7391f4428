// The bytes of a file or of standard input, decompressed if they are gzip or Zstandard (recognised by their first
// bytes, so standard input works too). Consecutive members or frames form one stream. Thread-safety: one thread at a
// time, but position() from any.
#ifndef KVLINK_WORKER_INGEST_SOURCE_BYTE_STREAM_H_
#define KVLINK_WORKER_INGEST_SOURCE_BYTE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/ingest/source/interrupt.h"

namespace kvlink::ingest {

class ByteStream {
 public:
  // "-" is standard input. NOT_FOUND or PERMISSION_DENIED if the file cannot be read; INVALID_ARGUMENT for a directory,
  // and for an uncompressed file whose name ends in .gz or .zst. Waits for the first bytes. `interrupt` (may be null,
  // otherwise outlives the stream) ends the waits of Open and Read with CANCELLED.
  static absl::StatusOr<std::unique_ptr<ByteStream>> Open(const std::string& path,
                                                          const Interrupt* interrupt = nullptr);
  virtual ~ByteStream() = default;
  // Fills up to out.size() bytes; 0 at the end. INVALID_ARGUMENT if compressed bytes are damaged or truncated.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> out) = 0;
  // Bytes of the file consumed so far, counted before decompression.
  virtual int64_t position() const = 0;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_BYTE_STREAM_H_
