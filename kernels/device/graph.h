// Passes as graphs: a stream that can record launches and launch them all as one, so that a device runs kernel after
// kernel without a launch for each.
// Thread-safety: as Stream.
#ifndef KVLINK_KERNELS_DEVICE_GRAPH_H_
#define KVLINK_KERNELS_DEVICE_GRAPH_H_

#include <memory>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

// A recording in executable form. Destroy only after its stream has been waited for.
class Graph {
 public:
  virtual ~Graph() = default;
};

class GraphStream : public Stream {
 public:
  // nullptr: this stream cannot record.
  static GraphStream* Of(Stream& stream) { return dynamic_cast<GraphStream*>(&stream); }

  // From here until EndCapture or DropCapture, operations are recorded and not executed. Meanwhile the thread may
  // launch operations in this stream, and must neither allocate nor wait for anything of the device. Operations may
  // then fail that otherwise would not (their staged data did not fit); the recording is void.
  virtual absl::Status BeginCapture() = 0;
  // Launches what was recorded. Host arrays passed to operations may be freed; the device memory they point to must
  // stay until Synchronize(), as usual. `graph` may hold the result of an earlier recording of this stream, which is
  // updated if possible and otherwise replaced; afterwards it holds what was launched. After an error, nothing was
  // launched, recording has ended, and `graph` is empty.
  virtual absl::Status EndCapture(std::unique_ptr<Graph>* graph) = 0;
  // Discards the recording.
  virtual void DropCapture() = 0;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_GRAPH_H_
