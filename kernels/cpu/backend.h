// The CPU backend with explicit choices: MakeCpuBackend chooses by the machine, tests as they like.
#ifndef KVLINK_KERNELS_CPU_BACKEND_H_
#define KVLINK_KERNELS_CPU_BACKEND_H_

#include <memory>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// bf16: compute in bf16. tiles: multiplies bf16 segments in LinkedAttention; nullptr: f32.
std::unique_ptr<Backend> MakeBackend(const Threads& threads, bool bf16, MultiplyTiles tiles);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_BACKEND_H_
