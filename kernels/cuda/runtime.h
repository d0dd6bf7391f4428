// The backend's interface to a device, except kernels: memory, streams, copies. runtime.cc implements it with CUDA.
// tests/support/cuda_emulation implements it with host memory, where kernels are complete when they return, and copies
// and graphs run when they must.
//
// Errors: RESOURCE_EXHAUSTED without memory; UNAVAILABLE without a driver or device; INTERNAL, with CUDA's message, for
// all others. Streams and events are CUDA's, untyped. Thread-safe.
#ifndef KVLINK_KERNELS_CUDA_RUNTIME_H_
#define KVLINK_KERNELS_CUDA_RUNTIME_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::kernels::cuda {

// Checks that device `index` exists and supports these kernels (compute capability 8.0 or later).
absl::Status OpenDevice(int index);
// Makes `index` the current device of the calling thread.
absl::Status UseDevice(int index);

absl::StatusOr<void*> CreateStream();
void DestroyStream(void* stream);
absl::Status SynchronizeStream(void* stream);
// An event is recorded in one stream and waited for by others or the host. Waiting for an unrecorded event does
// nothing.
absl::StatusOr<void*> CreateEvent();
void DestroyEvent(void* event);
absl::Status RecordEvent(void* event, void* stream);
absl::Status WaitEvent(void* stream, void* event);
absl::Status SynchronizeEvent(void* event);

// 4096-byte aligned memory of the current device, usable by all streams; any thread may free it. It comes from a pool
// that keeps freed memory, so neither call waits for the device's computation. RESOURCE_EXHAUSTED if even
// returning the pool's unused memory to the device does not suffice.
//
// Freed memory may be reused at once, by any stream: the caller guarantees that no launched work still uses it, by
// having waited for the stream (as kernels.h demands). Transfer and SlabDecoder wait before they return, even on
// errors; so does a forward pass, so that residents are released only when no pass reads them; streams and plans wait
// in their destructors.
absl::StatusOr<void*> AllocateDevice(int64_t bytes);
void FreeDevice(void* memory);
// Bytes of the current device allocated by AllocateDevice.
absl::StatusOr<int64_t> MemoryInUse();
// Device memory outside the pool, of the same alignment, for buffers registered with a network card: the pool must
// never recycle them. Freeing synchronises the device.
absl::StatusOr<void*> AllocatePlain(int64_t bytes);
void FreePlain(void* memory);
// Host memory that copies access without staging.
absl::StatusOr<void*> AllocatePinned(int64_t bytes);
void FreePinned(void* memory);

// Ordered in the stream; either memory may be on the host or the device.
absl::Status Copy(void* stream, void* to, const void* from, int64_t bytes);
absl::Status Fill(void* stream, void* to, int value, int64_t bytes);

// Between BeginCapture and EndCapture, this thread's launches in the stream are recorded, not executed. The thread must
// neither wait nor allocate meanwhile: that is INTERNAL, and then EndCapture is too. EndCapture ends the capture in any
// case.
absl::Status BeginCapture(void* stream);
absl::StatusOr<void*> EndCapture(void* stream);
void DestroyGraph(void* graph);
// May be launched any number of times, one after another; changed only while it does not run.
absl::StatusOr<void*> MakeExecutable(void* graph);
// Updates it to do what `graph` does. False if they differ in more than arguments; it is then unusable.
bool UpdateExecutable(void* executable, void* graph);
void DestroyExecutable(void* executable);
absl::Status LaunchExecutable(void* executable, void* stream);

// Converts the error of a launch to a status naming the operation.
absl::Status LaunchStatus(absl::string_view operation, int error);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_RUNTIME_H_
