// Lines of a byte stream, each of a bounded length.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_SOURCE_LINE_READER_H_
#define KVLINK_WORKER_INGEST_SOURCE_LINE_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/ingest/source/byte_stream.h"

namespace kvlink::ingest {

class LineReader {
 public:
  // Takes ownership of `stream`.
  LineReader(std::unique_ptr<ByteStream> stream, int64_t max_bytes)
      : stream_(std::move(stream)), max_bytes_(max_bytes), buffer_(64 << 10) {}

  struct Line {
    std::string text;       // without its end ("\n" or "\r\n")
    int64_t number = 0;     // from 1
    bool too_long = false;  // longer than max_bytes; `text` is only its beginning
  };
  // nullopt at the end. A last line without "\n" counts. Errors of ByteStream::Read; the reader is then done.
  absl::StatusOr<std::optional<Line>> Next();
  // Bytes of the file, before decompression, up to the end of the last line; interpolated within a buffer.
  int64_t position() const;

 private:
  const std::unique_ptr<ByteStream> stream_;
  const int64_t max_bytes_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t filled_from_ = 0;  // position of the stream before it filled the buffer
  int64_t number_ = 0;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_LINE_READER_H_
