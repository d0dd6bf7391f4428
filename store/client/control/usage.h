// Tracks whether an object is in use, and since when it is not.
//
// Thread-safety: all methods. Lifetime: holds may outlive the Usage.
#ifndef KVLINK_STORE_CLIENT_CONTROL_USAGE_H_
#define KVLINK_STORE_CLIENT_CONTROL_USAGE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"

namespace kvlink::store::client {

class Usage {
 public:
  // Marks the object as used while the result, or a copy of it, exists. The result points to `thing` and keeps it
  // alive.
  template <typename Thing>
  std::shared_ptr<Thing> Hold(std::shared_ptr<Thing> thing) {
    Thing* const pointer = thing.get();
    return std::shared_ptr<Thing>(std::make_shared<Held>(state_, std::move(thing)), pointer);
  }
  // Whether it has been unused since `before`.
  bool IdleSince(absl::Time before) const {
    return state_->users.load(std::memory_order_acquire) == 0 &&
           state_->last.load(std::memory_order_acquire) <= absl::ToUnixNanos(before);
  }

 private:
  struct State {
    std::atomic<int64_t> users{0};
    std::atomic<int64_t> last{absl::ToUnixNanos(SteadyNow())};  // nanoseconds since 1970
  };
  struct Held {
    Held(std::shared_ptr<State> state, std::shared_ptr<void> thing) : state(std::move(state)), thing(std::move(thing)) {
      this->state->users.fetch_add(1, std::memory_order_acq_rel);
    }
    ~Held() {
      state->last.store(absl::ToUnixNanos(SteadyNow()), std::memory_order_release);
      state->users.fetch_sub(1, std::memory_order_acq_rel);
    }
    const std::shared_ptr<State> state;
    const std::shared_ptr<void> thing;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_USAGE_H_
