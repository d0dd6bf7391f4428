// Passes as graphs: a stream that can records what is launched in it, and launches all of it as one. A device then runs
// kernel after kernel without being told each time.
// Thread-safety: as Stream.
#ifndef KVLINK_KERNELS_DEVICE_GRAPH_H_
#define KVLINK_KERNELS_DEVICE_GRAPH_H_

#include <memory>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

// A recording in executable form. Destroyed only after its stream was waited for.
class Graph {
 public:
  virtual ~Graph() = default;
};

class GraphStream : public Stream {
 public:
  // nullptr: this stream cannot.
  static GraphStream* Of(Stream& stream) { return dynamic_cast<GraphStream*>(&stream); }

  // From here on operations are recorded, and nothing is carried out, until EndCapture or DropCapture. Meanwhile the
  // thread may launch operations in this stream, and must neither allocate nor wait for anything of the device.
  // Operations may fail then that would not otherwise (what they had to stage did not fit); the recording is void.
  virtual absl::Status BeginCapture() = 0;
  // Launches what was recorded. The arrays of the host that operations took may go; what they point to on the device
  // must stay until Synchronize(), as ever. `graph` may hold what an earlier recording of this stream left, which is
  // changed where it differs if that can be done, and holds what was launched afterwards. After an error nothing was
  // launched, nothing is recorded any more, and `graph` is empty.
  virtual absl::Status EndCapture(std::unique_ptr<Graph>* graph) = 0;
  // Forgets what was recorded.
  virtual void DropCapture() = 0;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_GRAPH_H_
