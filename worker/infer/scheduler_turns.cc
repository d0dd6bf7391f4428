// An owner is known only while it has requests. One that comes back goes behind those that waited meanwhile: who asks
// for one thing at a time gains nothing over who asks for many.
#include "worker/infer/scheduler_turns.h"

#include <utility>

namespace kvlink::infer {

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

SchedulerTurns::EntryPtr SchedulerTurns::Next() {
  EntryPtr next;
  if (!first_.empty()) {
    next = std::move(first_.front());
    first_.pop_front();
  } else {
    Owner* of = nullptr;
    for (auto& [name, owner] : owners_) {
      if (owner.waiting.empty()) continue;
      if (of == nullptr || std::pair(owner.under_way, owner.turn) < std::pair(of->under_way, of->turn)) of = &owner;
    }
    if (of == nullptr) return nullptr;
    next = std::move(of->waiting.front());
    of->waiting.pop_front();
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
