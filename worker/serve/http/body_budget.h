// Memory for the bodies of all requests of a server. Bytes are taken as they arrive, not as they are announced, so that
// a client that promises much and sends little takes little.
#ifndef KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_
#define KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace kvlink::serve {

// Thread-safety: all methods.
class BodyBudget {
 public:
  explicit BodyBudget(int64_t max) : max_(max) {}
  // Returns false, and takes nothing, beyond the limit.
  bool Take(int64_t bytes) {
    int64_t taken = taken_.load(std::memory_order_relaxed);
    do {
      if (bytes > max_ - taken) return false;
    } while (!taken_.compare_exchange_weak(taken, taken + bytes, std::memory_order_relaxed));
    return true;
  }
  void Return(int64_t bytes) { taken_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Whether that much is free at the moment.
  bool Has(int64_t bytes) const { return bytes <= max_ - taken_.load(std::memory_order_relaxed); }

 private:
  const int64_t max_;
  std::atomic<int64_t> taken_ = 0;
};

// What one body has taken, returned with the object. Thread-safety: one thread at a time.
class BodyCharge {
 public:
  BodyCharge() = default;
  explicit BodyCharge(std::shared_ptr<BodyBudget> budget) : budget_(std::move(budget)) {}
  BodyCharge(BodyCharge&& other) noexcept : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
  BodyCharge& operator=(BodyCharge&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~BodyCharge() {
    if (budget_ != nullptr) budget_->Return(bytes_);
  }
  // Returns false, and takes nothing, if the budget does not have that much.
  bool Take(int64_t bytes) {
    if (budget_ == nullptr || !budget_->Take(bytes)) return false;
    bytes_ += bytes;
    return true;
  }

 private:
  std::shared_ptr<BodyBudget> budget_;
  int64_t bytes_ = 0;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_
