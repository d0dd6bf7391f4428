// The CPU backend with explicit choices: MakeCpuBackend chooses by the machine, tests as they like.
#ifndef KVLINK_KERNELS_CPU_BACKEND_H_
#define KVLINK_KERNELS_CPU_BACKEND_H_

#include <memory>

#include "kernels/cpu/bf16/avx512_bf16.h"
#include "kernels/cpu/bf16/tiles.h"
#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// What multiplies.
struct Arithmetic {
  bool bf16 = false;              // compute in bf16, otherwise in f32
  MultiplyTiles tiles = nullptr;  // bf16 segments in LinkedAttention; nullptr: f32
  MultiplyPairs pairs = nullptr;  // Linear in bf16; nullptr: oneDNN, or f32 where oneDNN does not multiply bf16
};

std::unique_ptr<Backend> MakeBackend(const Threads& threads, const Arithmetic& arithmetic);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_BACKEND_H_
