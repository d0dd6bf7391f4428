// Parallel loops for the operations.
//
// Why not OpenMP: its loops end in a barrier that every thread of the team must reach. On shared cores (progress
// threads, another process, a test run), a thread that is not scheduled stalls each of the hundreds of loops of a
// forward pass: measured, 10 to 100 times slower on two busy cores. Here a caller waits only for threads that have
// taken an item.
#ifndef KVLINK_KERNELS_CPU_THREADS_H_
#define KVLINK_KERNELS_CPU_THREADS_H_

#include <cstdint>
#include <memory>
#include <type_traits>

namespace kvlink::kernels::cpu {

// A handle to a pool of count - 1 threads (the caller is the last one); copies share it, and the last copy ends it. Any
// number of concurrent callers. An idle pool thread looks for work for 50 us and then sleeps.
class Threads {
 public:
  // count >= 1.
  explicit Threads(int count);
  int count() const { return count_; }
  // Cores this process may use.
  static int Available();

  // Calls body(item, thread) for every item in [0, items), in any order, with thread in [0, count()) and never twice
  // concurrently with the same thread; returns when all are done. Items are handed out one at a time in ascending
  // order. The body must neither throw nor call For.
  template <typename Body>
  void For(int64_t items, Body&& body) const {
    if (items <= 1 || count_ == 1) {
      for (int64_t item = 0; item < items; ++item) body(item, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    Run(
        items, [](void* context, int64_t item, int thread) { (*static_cast<Plain*>(context))(item, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  class Pool;
  void Run(int64_t items, void (*body)(void* context, int64_t item, int thread), void* context) const;
  int count_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_THREADS_H_
