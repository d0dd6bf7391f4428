// The names of kernels/cuda/device.h and kernels/cuda/launch.h on the host. Fragment layouts are those of the PTX ISA,
// each written once. A collective takes the operands of all lanes and computes for the whole warp.
#ifndef KVLINK_TESTS_SUPPORT_CUDA_EMULATION_DEVICE_H_
#define KVLINK_TESTS_SUPPORT_CUDA_EMULATION_DEVICE_H_

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numbers>
#include <tuple>
#include <type_traits>

#include "kernels/bf16.h"
#include "kernels/cuda/runtime.h"
#include "tests/support/cuda_emulation/emulator.h"

#define KVLINK_KERNEL(threads, blocks) void
#define KVLINK_DEVICE inline
#define KVLINK_DEVICE_TABLE inline constexpr

namespace kvlink::kernels::cuda {

namespace emulation = kvlink::testing::emulation;

inline int ThreadIndex() { return emulation::position.thread; }
inline int BlockThreads() { return emulation::position.threads; }
inline int64_t BlockX() { return emulation::position.block_x; }
inline int64_t BlockY() { return emulation::position.block_y; }
inline int64_t GridX() { return emulation::position.grid_x; }
inline unsigned char* SharedMemory() { return emulation::position.shared; }

inline void SyncThreads() { emulation::Barrier(); }
inline void SyncWarp() {
  emulation::Collective([](void* const*) {}, nullptr);
}

template <typename T>
struct ShuffleOperand {
  T value;
  int lane;
  T result;
};
template <typename T>
T ShuffleFrom(T value, int lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  ShuffleOperand<T> operand{value, lane, {}};
  emulation::Collective(
      [](void* const* operands) {
        for (int i = 0; i < 32; ++i) {
          auto* own = static_cast<ShuffleOperand<T>*>(operands[i]);
          own->result = static_cast<const ShuffleOperand<T>*>(operands[own->lane & 31])->value;
        }
      },
      &operand);
  return operand.result;
}
template <typename T>
T ShuffleXor(T value, int mask) {
  return ShuffleFrom(value, (ThreadIndex() & 31) ^ mask);
}

// Fibers do not interrupt each other.
inline uint32_t AtomicCas(uint32_t* at, uint32_t expected, uint32_t desired) {
  const uint32_t was = *at;
  if (was == expected) *at = desired;
  return was;
}
inline void AtomicAdd(uint32_t* at, uint32_t value) { *at += value; }
inline void AtomicAdd(double* at, double value) { *at += value; }

inline uint16_t ToBf16(float value) { return FloatToBf16(value); }
inline uint32_t PackBf16(float low, float high) { return FloatToBf16(low) | uint32_t{FloatToBf16(high)} << 16; }
inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t FloatToBits(float value) { return std::bit_cast<uint32_t>(value); }
inline float Exp2(float x) { return std::exp2(x); }
inline void SinCosPi(double x, double* sine, double* cosine) {
  *sine = std::sin(x * std::numbers::pi);
  *cosine = std::cos(x * std::numbers::pi);
}
inline uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

// Nothing arrives before it is waited for.
void QueueCopy(void* shared, const void* global, int bytes, bool valid);
void CopyCommit();
void WaitForCopies(int groups);
template <int kBytes>
void CopyAsync(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  QueueCopy(shared, global, kBytes, valid);
}
template <int kGroups>
void CopyWait() {
  WaitForCopies(kGroups);
}

void LoadMatrices(uint32_t (&out)[4], const void* shared_row);
void LoadMatricesTransposed(uint32_t (&out)[4], const void* shared_row);
void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// Runs `kernel` after the work queued in the stream, or records it.
void RunOrRecord(void* stream, std::function<void()> kernel);
template <typename... P>
int Launch(void* stream, int64_t grid_x, int64_t grid_y, int threads, int64_t shared, void (*kernel)(P...),
           const std::type_identity_t<P>&... arguments) {
  RunOrRecord(stream, [=] { emulation::RunGrid(grid_x, grid_y, threads, shared, [&] { kernel(arguments...); }); });
  return 0;
}

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_TESTS_SUPPORT_CUDA_EMULATION_DEVICE_H_
