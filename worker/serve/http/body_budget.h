// Memory for the bodies of all requests of a server. Bytes are taken as they arrive, not as they are announced, so that
// a client that promises much and sends little takes little.
//
// Nobody can take all of it: an owner has a quarter at most, and a quarter, of all and of each owner's share, is left
// to small bodies, so that ordinary requests get through while large ones wait.
#ifndef KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_
#define KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"

namespace kvlink::serve {

// Thread-safety: all methods.
class BodyBudget {
 public:
  static constexpr int64_t kSmallBytes = 64 << 10;  // of a small body, at most

  explicit BodyBudget(int64_t max) : max_(max) {}
  // Whether `bytes` more are free at the moment, for a body of `owner` that will have `size` in all.
  bool Has(const std::string& owner, int64_t bytes, int64_t size) const {
    MutexLock lock(&mutex_);
    return HasLocked(owner, bytes, size);
  }
  // Returns false, and takes nothing, if they are not.
  bool Take(const std::string& owner, int64_t bytes, int64_t size) {
    MutexLock lock(&mutex_);
    if (!HasLocked(owner, bytes, size)) return false;
    taken_ += bytes;
    owners_[owner] += bytes;
    return true;
  }
  void Return(const std::string& owner, int64_t bytes) {
    MutexLock lock(&mutex_);
    taken_ -= bytes;
    const auto found = owners_.find(owner);
    if (found != owners_.end() && (found->second -= bytes) <= 0) owners_.erase(found);
  }

 private:
  bool HasLocked(const std::string& owner, int64_t bytes, int64_t size) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto within = [&](int64_t limit, int64_t taken) {
      return bytes <= (size <= kSmallBytes ? limit : limit - limit / 4) - taken;
    };
    const auto found = owners_.find(owner);
    return within(max_, taken_) && within(max_ / 4, found == owners_.end() ? 0 : found->second);
  }

  const int64_t max_;
  mutable Mutex mutex_;
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> owners_ ABSL_GUARDED_BY(mutex_);  // with bodies
};

// What one body has taken, returned with the object. Thread-safety: one thread at a time.
class BodyCharge {
 public:
  BodyCharge() = default;
  // `announced`: the size of the body, or 0 if it is not known.
  BodyCharge(std::shared_ptr<BodyBudget> budget, std::string owner, int64_t announced)
      : budget_(std::move(budget)), owner_(std::move(owner)), announced_(announced) {}
  BodyCharge(BodyCharge&& other) noexcept { *this = std::move(other); }
  BodyCharge& operator=(BodyCharge&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(owner_, other.owner_);
    std::swap(announced_, other.announced_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~BodyCharge() {
    if (bytes_ > 0) budget_->Return(owner_, bytes_);
  }
  // Returns false, and takes nothing, if the budget does not have that much.
  bool Take(int64_t bytes) {
    if (budget_ == nullptr || !budget_->Take(owner_, bytes, std::max(announced_, bytes_ + bytes))) return false;
    bytes_ += bytes;
    return true;
  }
  // Whether the budget has all that was announced, at the moment.
  bool HasRoom() const { return budget_ != nullptr && budget_->Has(owner_, announced_, announced_); }

 private:
  std::shared_ptr<BodyBudget> budget_;
  std::string owner_;
  int64_t announced_ = 0, bytes_ = 0;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_BODY_BUDGET_H_
