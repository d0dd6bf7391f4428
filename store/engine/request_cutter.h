// Cuts transfers between an encoding's memory and its blocks into requests to the disk. Thread-safety: none.
#ifndef KVLINK_STORE_ENGINE_REQUEST_CUTTER_H_
#define KVLINK_STORE_ENGINE_REQUEST_CUTTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "store/engine/disk/bulk_io.h"
#include "store/engine/disk/location.h"
#include "store/engine/disk/segment_files.h"

namespace kvlink::engine {

// Cuts what moves between an encoding's memory and its blocks into requests, piece by piece in the order in which they
// are stored: the area of the manifest, then the slabs.
class RequestCutter {
 public:
  // `offset`: of the request's bytes, in all that is stored of the encoding.
  using Done = std::function<void(int64_t offset, int64_t length, const absl::Status&)>;
  // `done` is called for each request. The files outlive it, and memory is registered in chunks of `chunk_bytes`.
  RequestCutter(SegmentFiles* segments, Runs runs, int64_t chunk_bytes, bool write, Done done);
  // Passes over so many bytes, a multiple of 4096. DATA_LOSS: the blocks do not suffice.
  absl::Status Skip(int64_t bytes);
  // The next piece. DATA_LOSS: the blocks do not suffice, or are not there.
  absl::Status Add(absl::Span<std::byte> piece);
  // Requests cut since the last call. Without `all` the last one stays: the next piece may lengthen it.
  std::vector<IoRequest> Take(bool all);

 private:
  // Goes to the next run where this one is used up.
  absl::Status EnterRun();

  SegmentFiles* const segments_;
  const Runs runs_;
  const int64_t chunk_bytes_, max_bytes_;
  const bool write_;
  const std::shared_ptr<const Done> done_;
  size_t run_ = 0;
  int64_t in_run_ = 0;    // bytes of the run already used
  int64_t position_ = 0;  // in all that is stored
  int64_t start_ = 0;     // of the last request
  std::vector<IoRequest> requests_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_REQUEST_CUTTER_H_
