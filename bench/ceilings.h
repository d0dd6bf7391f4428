// The machine's measured ceilings, which are the denominators of the benches. Every call takes about 10-20 ms and uses
// all threads.
#ifndef KVLINK_BENCH_CEILINGS_H_
#define KVLINK_BENCH_CEILINGS_H_

#include <cstdint>

#include "bench/bench_common.h"

namespace kvlink::bench {

// Not thread-safe.
class Ceilings {
 public:
  // 0: one thread per core this process may use.
  explicit Ceilings(int threads);
  int threads() const { return threads_; }
  // 1e9 floating-point operations per second of independent f32 fused multiply-adds (two each) in registers.
  double FmaGflops() const;
  // The same for products of bf16 numbers added by VDPBF16PS (AVX512_BF16); 0 on a CPU without it.
  double DotGflops() const;
  // 1e9 bytes per second read with the widest loads, repeatedly from `bytes` of memory divided among the threads: small
  // sizes stay in a cache, as for the operation being compared. kUncached: from memory that no cache holds.
  double ReadGbps(int64_t bytes) const;
  // 1e9 bytes per second read and written by memcpy (both count), between two halves of `bytes`.
  double MoveGbps(int64_t bytes) const;
  static constexpr int64_t kUncached = int64_t{1} << 40;

 private:
  // Runs body(thread) on every thread; returns the seconds from start to end.
  template <typename Body>
  double Timed(Body&& body) const;
  // compute() returns the number of operations.
  double Gflops(double (*compute)()) const;
  int64_t Advance(int64_t bytes, int64_t piece) const;
  static int64_t Offset(int64_t base, int thread, int64_t piece);
  const int threads_;
  Memory from_, to_;
  mutable int64_t at_ = 0;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_CEILINGS_H_
