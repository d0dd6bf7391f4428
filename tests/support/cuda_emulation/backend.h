// The CUDA backend with its kernels run on the host (kernels/cuda/device.h says how).
#ifndef KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_
#define KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_

#include <memory>

#include "kernels/kernels.h"

namespace kvlink::testing {

std::unique_ptr<kernels::Backend> MakeEmulatedCudaBackend();
// Makes every allocation of device and pinned memory fail, or succeed again.
void SetEmulatedDeviceExhausted(bool exhausted);
// From now on no recording of operations succeeds; or they do again.
void SetEmulatedDeviceUnrecordable(bool unrecordable);
// Of memory of the emulated device that is in use, by all its backends.
int64_t EmulatedDeviceBytes();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_CUDA_EMULATION_BACKEND_H_
