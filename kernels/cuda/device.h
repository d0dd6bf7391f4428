// The device intrinsics used by the kernels, and the only device-specific language: a kernel is plain C++ over these
// names. Under nvcc they are the instructions. A build that defines KVLINK_EMULATE_CUDA (as the header that supplies
// them: tests/support/cuda_emulation/device.h) compiles the same kernels for the host, where tests run them.
//
// A kernel is `KVLINK_KERNEL(threads, blocks) Name(arguments)`: launched with at most `threads` threads, in whole warps
// (kernels/cuda/launch.h), with registers limited so that `blocks` blocks fit a multiprocessor. Functions that concern
// a warp must be called by all its 32 lanes, at the same place. Shared memory belongs to the launch; it is
// uninitialised.
#ifndef KVLINK_KERNELS_CUDA_DEVICE_H_
#define KVLINK_KERNELS_CUDA_DEVICE_H_

#ifdef KVLINK_EMULATE_CUDA
#include KVLINK_EMULATE_CUDA
#else

#include <cuda_bf16.h>

#include <cstdint>

#define KVLINK_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define KVLINK_DEVICE __device__ __forceinline__
#define KVLINK_DEVICE_TABLE static __device__ const

namespace kvlink::kernels::cuda {

KVLINK_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
KVLINK_DEVICE int BlockThreads() { return static_cast<int>(blockDim.x); }
KVLINK_DEVICE int64_t BlockX() { return blockIdx.x; }
KVLINK_DEVICE int64_t BlockY() { return blockIdx.y; }
KVLINK_DEVICE int64_t GridX() { return gridDim.x; }
// 16-byte aligned.
KVLINK_DEVICE unsigned char* SharedMemory() {
  extern __shared__ __align__(16) unsigned char kvlink_shared_memory[];
  return kvlink_shared_memory;
}

// Block and warp.
KVLINK_DEVICE void SyncThreads() { __syncthreads(); }
KVLINK_DEVICE void SyncWarp() { __syncwarp(); }
// The value of lane (own ^ mask). T: 4 or 8 bytes.
template <typename T>
KVLINK_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value of lane `lane`.
template <typename T>
KVLINK_DEVICE T ShuffleFrom(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// Returns the previous value.
KVLINK_DEVICE uint32_t AtomicCas(uint32_t* at, uint32_t expected, uint32_t desired) {
  return atomicCAS(at, expected, desired);
}
KVLINK_DEVICE void AtomicAdd(uint32_t* at, uint32_t value) { atomicAdd(at, value); }
KVLINK_DEVICE void AtomicAdd(double* at, double value) { atomicAdd(at, value); }

// Numbers.
KVLINK_DEVICE uint16_t ToBf16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
KVLINK_DEVICE uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
KVLINK_DEVICE float BitsToFloat(uint32_t bits) { return __uint_as_float(bits); }
KVLINK_DEVICE uint32_t FloatToBits(float value) { return __float_as_uint(value); }
// 2^x to about 2 units in the last place; 0 for -inf.
KVLINK_DEVICE float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
KVLINK_DEVICE void SinCosPi(double x, double* sine, double* cosine) { sincospi(x, sine, cosine); }
// The upper 64 bits of the product.
KVLINK_DEVICE uint64_t MultiplyHigh(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

// Background copies from global to shared memory. A group consists of the copies since the last commit; CopyWait<n>
// waits for all of this thread's groups except the last n. The bytes are zeros if not `valid`.
template <int kBytes>
KVLINK_DEVICE void CopyAsync(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}
KVLINK_DEVICE void CopyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
KVLINK_DEVICE void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Tensor cores, by warp. ldmatrix.x4: lane l points to a row of 8 bf16 of matrix l / 8; matrix i becomes out[i].
KVLINK_DEVICE void LoadMatrices(uint32_t (&out)[4], const void* shared_row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}
KVLINK_DEVICE void LoadMatricesTransposed(uint32_t (&out)[4], const void* shared_row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}
// mma.m16n8k16: d += a b, bf16 with f32 sums.
KVLINK_DEVICE void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_EMULATE_CUDA

#endif  // KVLINK_KERNELS_CUDA_DEVICE_H_
