#include "store/engine/memory/generations.h"

#include "base/status.h"

namespace kvlink::engine {

static_assert(sizeof(std::atomic<uint64_t>) == 8 && std::atomic<uint64_t>::is_always_lock_free,
              "other processes read the values");

GenerationSlot& GenerationSlot::operator=(GenerationSlot&& other) noexcept {
  std::swap(table_, other.table_);
  std::swap(number_, other.number_);
  std::swap(generation_, other.generation_);
  return *this;
}

GenerationSlot::~GenerationSlot() {
  if (table_ != nullptr) table_->GiveBack(number_);
}

absl::StatusOr<std::unique_ptr<GenerationTable>> GenerationTable::Create(int64_t slots, bool shared) {
  const int64_t bytes = (slots * 8 + 4095) / 4096 * 4096;
  KVLINK_ASSIGN_OR_RETURN(auto mapping, Mapping::Create({.bytes = bytes, .shared = shared, .permanent = true}));
  return std::unique_ptr<GenerationTable>(new GenerationTable(std::move(mapping), slots));
}

std::optional<GenerationSlot> GenerationTable::Take() {
  GenerationSlot slot;
  MutexLock lock(&mutex_);
  if (!free_.empty()) {
    slot.number_ = free_.back();
    free_.pop_back();
  } else if (used_ < slots_) {
    slot.number_ = static_cast<uint64_t>(used_++);
  } else {
    return std::nullopt;
  }
  slot.table_ = this;
  slot.generation_ = Value(slot.number_).fetch_add(1, std::memory_order_relaxed) + 1;
  return slot;
}

void GenerationTable::GiveBack(uint64_t slot) {
  // The pages are rewritten only by threads that have taken the locks released after this, so a reader that sees such a
  // write also sees the new value.
  Value(slot).fetch_add(1, std::memory_order_acq_rel);
  MutexLock lock(&mutex_);
  free_.push_back(slot);
}

int64_t GenerationTable::taken() const {
  MutexLock lock(&mutex_);
  return used_ - static_cast<int64_t>(free_.size());
}

}  // namespace kvlink::engine
