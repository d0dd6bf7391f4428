// A threshold that moves with the free amount: there are no shares to configure, no holder is shut out, and a lone
// holder gets half of everything.
#include "store/node/quota.h"

#include "absl/strings/str_cat.h"

namespace kvlink::store::node {
namespace {

bool IsAdministrator(const Grant& grant) { return grant.right == Right::kAdmin && grant.every_namespace; }

}  // namespace

absl::Status Quota::Take(const Grant& grant, int64_t amount) {
  MutexLock lock(&mutex_);
  const auto found = holders_.find(grant.name);
  const int64_t own = found == holders_.end() ? 0 : found->second;
  const int64_t left = total_ - taken_ - (IsAdministrator(grant) ? 0 : reserve_) - amount;
  if (left < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no more ", what_, " at this node (", taken_, " of ", total_, " are taken): try again later"));
  }
  if (own > 0 && own + amount > left && !IsAdministrator(grant)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("key ", grant.name, " has ", own, " ", what_, ", its share: the rest is for others"));
  }
  taken_ += amount;
  holders_[grant.name] += amount;
  return absl::OkStatus();
}

void Quota::Return(const Grant& grant, int64_t amount) {
  MutexLock lock(&mutex_);
  taken_ -= amount;
  const auto found = holders_.find(grant.name);
  if (found == holders_.end()) return;
  found->second -= amount;
  if (found->second <= 0) holders_.erase(found);
}

int64_t Quota::taken() const {
  MutexLock lock(&mutex_);
  return taken_;
}

int64_t Quota::taken(const Grant& grant) const {
  MutexLock lock(&mutex_);
  const auto found = holders_.find(grant.name);
  return found == holders_.end() ? 0 : found->second;
}

}  // namespace kvlink::store::node
