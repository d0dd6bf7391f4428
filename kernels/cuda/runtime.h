// The backend's interface to a device, except kernels: memory, streams, copies. runtime.cc implements it with CUDA;
// tests/support/cuda_emulation with host memory, where kernels are done when they return, and copies and graphs when
// they must be.
//
// Errors: RESOURCE_EXHAUSTED where there is no memory; UNAVAILABLE where there is no driver or device; INTERNAL,
// with CUDA's own words, for the rest. Streams and events are CUDA's, untyped. Thread-safe.
#ifndef KVLINK_KERNELS_CUDA_RUNTIME_H_
#define KVLINK_KERNELS_CUDA_RUNTIME_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::kernels::cuda {

// Checks that device `index` is there and that these kernels run on it (compute capability 8.0 or later).
absl::Status OpenDevice(int index);
// Makes `index` the device of the calling thread, for what follows.
absl::Status UseDevice(int index);

absl::StatusOr<void*> CreateStream();
void DestroyStream(void* stream);
absl::Status SynchronizeStream(void* stream);
// An event: recorded in one stream, waited for by others or by the host. Waiting for one never recorded does nothing.
absl::StatusOr<void*> CreateEvent();
void DestroyEvent(void* event);
absl::Status RecordEvent(void* event, void* stream);
absl::Status WaitEvent(void* stream, void* event);
absl::Status SynchronizeEvent(void* event);

// 4096-byte aligned memory of the device in use, there for all streams; any thread may free it. It comes from a pool
// that keeps what is freed, so that neither waits for what the device computes. RESOURCE_EXHAUSTED once the pool has
// nothing left to give back to the device.
//
// Freed memory may be given out again at once, to any stream: whoever frees guarantees that nothing launched still
// reads or writes it, by having waited for the stream (kernels.h asks for that). So do Transfer and SlabDecoder before
// they return, also on errors; a forward pass before it returns, so that residents are let go only when no pass reads
// them; streams and plans before they go.
absl::StatusOr<void*> AllocateDevice(int64_t bytes);
void FreeDevice(void* memory);
// Bytes of the device in use that came from AllocateDevice.
absl::StatusOr<int64_t> MemoryInUse();
// Device memory outside the pool, of the same alignment, for buffers registered with a network card: the pool must
// never recycle them. Freeing synchronises the device.
absl::StatusOr<void*> AllocatePlain(int64_t bytes);
void FreePlain(void* memory);
// Host memory that copies reach without staging.
absl::StatusOr<void*> AllocatePinned(int64_t bytes);
void FreePinned(void* memory);

// Ordered in the stream, either memory being the host's or the device's.
absl::Status Copy(void* stream, void* to, const void* from, int64_t bytes);
absl::Status Fill(void* stream, void* to, int value, int64_t bytes);

// From BeginCapture to EndCapture, this thread's launches in the stream are recorded, not carried out. The thread must
// not wait for or allocate anything meanwhile: that is INTERNAL, and so is EndCapture then. EndCapture ends it in any
// case.
absl::Status BeginCapture(void* stream);
absl::StatusOr<void*> EndCapture(void* stream);
void DestroyGraph(void* graph);
// Ready to be launched any number of times, one after another; changed only while it does not run.
absl::StatusOr<void*> MakeExecutable(void* graph);
// Makes it do what `graph` does. False: they differ in more than arguments; it cannot be used any more.
bool UpdateExecutable(void* executable, void* graph);
void DestroyExecutable(void* executable);
absl::Status LaunchExecutable(void* executable, void* stream);

// The status of a launch, naming the operation.
absl::Status LaunchStatus(absl::string_view operation, int error);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_RUNTIME_H_
