// Products in tiles (tiles.h) by AMX. The blocking is written once, for a machine of eight tiles. One machine is AMX;
// the other computes the same in plain C++.
//
// AMX needs two permissions: the kernel's for the process (arch_prctl, requested by HasAmx()), and a tile configuration
// (LDTILECFG) in every thread that uses tiles. Each call loads and releases its configuration, because other code on
// the same thread (oneDNN) configures its own tiles.
#ifndef KVLINK_KERNELS_CPU_BF16_AMX_H_
#define KVLINK_KERNELS_CPU_BF16_AMX_H_

#include "absl/types/span.h"
#include "kernels/cpu/bf16/tiles.h"

namespace kvlink::kernels::cpu {

// Whether this CPU multiplies bf16 in AMX tiles, the kernel lets this process use them (requested on the first call),
// and a small product is computed correctly.
bool HasAmx();
// nullptr if HasAmx() is false, or if the build's compiler did not support AMX.
MultiplyTiles AmxMultiply();
// Emulates AMX, for tests: slow.
void EmulatedAmxMultiply(absl::Span<const TileProduct> products);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_BF16_AMX_H_
