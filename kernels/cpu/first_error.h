// The first error in a parallel loop, by item, so that the message does not depend on the threads.
#ifndef KVLINK_KERNELS_CPU_FIRST_ERROR_H_
#define KVLINK_KERNELS_CPU_FIRST_ERROR_H_

#include <atomic>
#include <cstdint>
#include <limits>

namespace kvlink::kernels::cpu {

class FirstError {
 public:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  void Note(int64_t item) {
    int64_t before = first_.load(std::memory_order_relaxed);
    while (item < before && !first_.compare_exchange_weak(before, item, std::memory_order_relaxed)) {
    }
  }
  // The lowest item noted, or kNone.
  int64_t first() const { return first_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> first_{kNone};
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_FIRST_ERROR_H_
