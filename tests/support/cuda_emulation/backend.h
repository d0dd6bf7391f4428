// The CUDA backend with its kernels run on the host (see kernels/cuda/device.h).
#ifndef KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_
#define KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_

#include <memory>

#include "kernels/kernels.h"

namespace kvlink::testing {

std::unique_ptr<kernels::Backend> MakeEmulatedCudaBackend();
// Makes all allocations of device and pinned memory fail, or succeed again.
void SetEmulatedDeviceExhausted(bool exhausted);
// Makes all recordings of operations fail, or succeed again.
void SetEmulatedDeviceUnrecordable(bool unrecordable);
// Bytes of emulated device memory in use, by all its backends.
int64_t EmulatedDeviceBytes();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_
