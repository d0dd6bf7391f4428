// Cuts transfers between memory and disk into requests. Thread-safety: none.
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

// Cuts the transfer between an encoding's memory and its blocks into disk requests, piece by piece in storage order:
// the manifest's area, then the slabs.
class RequestCutter {
 public:
  // `offset`: of the request's bytes, within everything stored of the encoding.
  using Done = std::function<void(int64_t offset, int64_t length, const absl::Status&)>;
  // `done` is called for each request. The files must outlive this; memory is registered in chunks of `chunk_bytes`.
  RequestCutter(SegmentFiles* segments, Runs runs, int64_t chunk_bytes, bool write, Done done);
  // Skips `bytes`, a multiple of 4096. DATA_LOSS: the blocks do not suffice.
  absl::Status Skip(int64_t bytes);
  // Adds the next piece. DATA_LOSS: the blocks do not suffice, or do not exist.
  absl::Status Add(absl::Span<std::byte> piece);
  // Returns the requests cut since the last call. Unless `all`, keeps the last one, which the next piece may extend.
  std::vector<IoRequest> Take(bool all);

 private:
  // Moves to the next run if this one is used up.
  absl::Status EnterRun();

  SegmentFiles* const segments_;
  const Runs runs_;
  const int64_t chunk_bytes_, max_bytes_;
  const bool write_;
  const std::shared_ptr<const Done> done_;
  size_t run_ = 0;
  int64_t in_run_ = 0;    // bytes of the run already used
  int64_t position_ = 0;  // within everything stored
  int64_t start_ = 0;     // of the last request
  std::vector<IoRequest> requests_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_REQUEST_CUTTER_H_
