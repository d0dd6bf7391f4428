// A stream of the device, with what operations need but must not allocate: a ring for small host arrays, tables of
// ropes, and the record of the first fault in a kernel. Used by one thread at a time.
#ifndef KVLINK_KERNELS_CUDA_STREAM_H_
#define KVLINK_KERNELS_CUDA_STREAM_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/operations.h"
#include "kernels/device/graph.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cuda {

class CudaStream : public GraphStream {
 public:
  // Limit of one call to Stage.
  static constexpr int64_t kMaxStaged = int64_t{1} << 20;

  // Without memory, status() and every Synchronize() return the error.
  explicit CudaStream(int device);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  absl::Status Synchronize() override;
  absl::Status BeginCapture() override;
  absl::Status EndCapture(std::unique_ptr<Graph>* graph) override;
  void DropCapture() override;

  // Call before each operation; makes the device that of the calling thread.
  absl::Status Use();
  void* handle() const { return handle_; }
  FaultRecord* fault() const { return fault_; }
  // Later launches wait for the event, which was recorded in another stream.
  absl::Status WaitFor(void* event);
  // Returns a device copy of `bytes` (at most kMaxStaged) bytes, valid for operations launched in this stream before
  // the next call. Waits for the stream if the ring is full; RESOURCE_EXHAUSTED while operations are recorded.
  absl::StatusOr<const void*> Stage(const void* data, int64_t bytes);
  // Returns the frequencies on the device; cached across calls.
  absl::StatusOr<RopeView> StageRope(const Rope& rope);

 private:
  static constexpr int kRopes = 4;
  absl::Status Create();
  absl::StatusOr<int64_t> Reserve(int64_t bytes);
  absl::Status LaunchRecorded(std::unique_ptr<Graph>* graph);

  const int device_;
  absl::Status status_;
  void* handle_ = nullptr;
  std::byte* pinned_ = nullptr;  // the ring, then a fault
  std::byte* memory_ = nullptr;  // the ring, the ropes, the fault
  FaultRecord* fault_ = nullptr;
  int64_t used_ = 0;  // of the ring
  std::array<std::vector<double>, kRopes> ropes_;
  int next_rope_ = 0;
  bool capturing_ = false;
  std::vector<void*> awaited_;  // by the recording
};

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_STREAM_H_
