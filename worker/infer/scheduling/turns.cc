// An owner is known only while it has requests. One that comes back goes behind those that waited meanwhile: who asks
// for one thing at a time gains nothing over who asks for many.
#include "worker/infer/scheduling/turns.h"

#include <algorithm>
#include <utility>

namespace kvlink::infer {
namespace {

constexpr ptrdiff_t kLooks = 16;

}  // namespace

void SchedulerTurns::Add(EntryPtr entry) {
  ++waiting_;
  Owner& owner = Find(entry->owner);
  owner.waiting.push_back(std::move(entry));
}

void SchedulerTurns::AddFirst(EntryPtr entry) {
  ++waiting_;
  Left(entry->owner);
  first_.push_front(std::move(entry));
}

SchedulerTurns::EntryPtr SchedulerTurns::Next(const std::function<bool(SchedulerEntry&)>& may) {
  EntryPtr next;
  if (!first_.empty()) {
    next = std::move(first_.front());
    first_.pop_front();
  } else {
    std::vector<Owner*> owners;
    for (auto& [name, owner] : owners_) {
      if (!owner.waiting.empty()) owners.push_back(&owner);
    }
    std::sort(owners.begin(), owners.end(), [](const Owner* a, const Owner* b) {
      return std::pair(a->under_way, a->turn) < std::pair(b->under_way, b->turn);
    });
    for (Owner* owner : owners) {
      const auto end = owner->waiting.begin() + std::min<ptrdiff_t>(kLooks, std::ssize(owner->waiting));
      const auto found = std::find_if(owner->waiting.begin(), end, [&](const EntryPtr& one) { return may(*one); });
      if (found == end) continue;
      next = std::move(*found);
      owner->waiting.erase(found);
      break;
    }
    if (next == nullptr) return nullptr;
  }
  --waiting_;
  Owner& owner = Find(next->owner);
  ++owner.under_way;
  owner.turn = ++turn_;
  return next;
}

void SchedulerTurns::Remove(const EntryPtr& entry) {
  --waiting_;
  if (std::erase(first_, entry) > 0) return;
  std::erase(Find(entry->owner).waiting, entry);
  Forget(entry->owner);
}

void SchedulerTurns::Left(const std::string& owner) {
  --Find(owner).under_way;
  Forget(owner);
}

SchedulerTurns::Owner& SchedulerTurns::Find(const std::string& name) {
  const auto [owner, added] = owners_.try_emplace(name);
  if (added) owner->second.turn = ++turn_;
  return owner->second;
}

void SchedulerTurns::Forget(const std::string& name) {
  const auto owner = owners_.find(name);
  if (owner->second.waiting.empty() && owner->second.under_way == 0) owners_.erase(owner);
}

}  // namespace kvlink::infer
