// Decides which disk request comes next. A caller waits for each read; writes and the scrubber's reads are bulk. While
// reads are active, few bulk requests are in flight, so that a read waits behind little; but some always are, so that
// bulk work makes progress.
//
// Thread-safety: none; the owner locks.
#ifndef KVLINK_STORE_ENGINE_DISK_IO_QUEUE_H_
#define KVLINK_STORE_ENGINE_DISK_IO_QUEUE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

namespace kvlink::engine {

struct IoLimits {
  int all = 0;                // max requests in flight
  int bulk = 0;               // of these, max bulk requests while there are no reads
  int bulk_beside_reads = 0;  // and while there are reads; this many places are reserved for bulk
};

template <typename Item>
class IoQueue {
 public:
  explicit IoQueue(const IoLimits& limits) : limits_(limits) {}

  // `first`: ahead of the waiting items of its kind.
  void Push(Item item, bool bulk, bool first = false) {
    std::deque<Item>& waiting = (bulk ? bulk_ : reads_).waiting;
    if (first) {
      waiting.push_front(std::move(item));
    } else {
      waiting.push_back(std::move(item));
    }
  }
  // Returns the next item to start, which counts as in flight until Ended. nullopt: none waits, or the limits are
  // reached.
  std::optional<Item> Next() {
    const bool reading = !reads_.waiting.empty() || reads_.in_flight > 0;
    const int kept = bulk_.waiting.empty() ? 0 : limits_.bulk_beside_reads - bulk_.in_flight;
    if (in_flight() >= limits_.all) return std::nullopt;
    if (!reads_.waiting.empty() && in_flight() + (kept > 0 ? kept : 0) < limits_.all) return Start(&reads_);
    if (!bulk_.waiting.empty() && bulk_.in_flight < (reading ? limits_.bulk_beside_reads : limits_.bulk)) {
      return Start(&bulk_);
    }
    return std::nullopt;
  }
  void Ended(bool bulk) { --(bulk ? bulk_ : reads_).in_flight; }

  int64_t reads_waiting() const { return static_cast<int64_t>(reads_.waiting.size()); }
  int64_t bulk_waiting() const { return static_cast<int64_t>(bulk_.waiting.size()); }
  int reads_in_flight() const { return reads_.in_flight; }
  int bulk_in_flight() const { return bulk_.in_flight; }
  int in_flight() const { return reads_.in_flight + bulk_.in_flight; }
  bool idle() const { return in_flight() == 0 && reads_.waiting.empty() && bulk_.waiting.empty(); }

 private:
  struct Lane {
    std::deque<Item> waiting;
    int in_flight = 0;
  };
  std::optional<Item> Start(Lane* lane) {
    std::optional<Item> item(std::move(lane->waiting.front()));
    lane->waiting.pop_front();
    ++lane->in_flight;
    return item;
  }

  const IoLimits limits_;
  Lane reads_, bulk_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_IO_QUEUE_H_
