// What this machine can do at most, measured: the denominators of the benches. Every call takes about 10-20 ms and uses
// all threads.
#ifndef KVLINK_BENCH_CEILINGS_H_
#define KVLINK_BENCH_CEILINGS_H_

#include <cstdint>

#include "bench/bench_common.h"

namespace kvlink::bench {

// Not thread-safe.
class Ceilings {
 public:
  // 0: one thread for each core this process may use.
  explicit Ceilings(int threads);
  int threads() const { return threads_; }
  // 1e9 floating-point operations a second of independent f32 fused multiply-adds (two each) in registers.
  double FmaGflops() const;
  // 1e9 bytes a second read from memory that no cache holds.
  double ReadGbps() const;
  // 1e9 bytes a second copied by memcpy (each byte is read once and written once, and counted once).
  double CopyGbps() const;

 private:
  // Runs body(thread) on every thread; the seconds from start to end.
  template <typename Body>
  double Timed(Body&& body) const;
  const int threads_;
  Memory from_, to_;
  mutable int64_t at_ = 0;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_CEILINGS_H_
