// The table of generations: one u64 for each residency in the DRAM tier. Readers that map the tier check it to learn
// whether the bytes they use are still the same (docs/formats.md, "Shared memory").
//
// Thread-safety: all methods. Slots must be released before the table is destroyed.
#ifndef KVLINK_STORE_ENGINE_MEMORY_GENERATIONS_H_
#define KVLINK_STORE_ENGINE_MEMORY_GENERATIONS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "store/engine/memory/mapping.h"

namespace kvlink::engine {

class GenerationTable;

// A slot of the table, valid as long as its holder owns its pages. The destructor first changes the slot's value and
// then releases the slot. Must be destroyed before the pages are reused or returned to the system.
class GenerationSlot {
 public:
  GenerationSlot() = default;
  GenerationSlot(GenerationSlot&& other) noexcept { *this = std::move(other); }
  GenerationSlot& operator=(GenerationSlot&& other) noexcept;
  ~GenerationSlot();
  uint64_t number() const { return number_; }
  uint64_t generation() const { return generation_; }

 private:
  friend class GenerationTable;
  GenerationTable* table_ = nullptr;
  uint64_t number_ = 0;
  uint64_t generation_ = 0;
};

class GenerationTable {
 public:
  // `shared`: in a memfd. RESOURCE_EXHAUSTED, UNAVAILABLE as Mapping::Create.
  static absl::StatusOr<std::unique_ptr<GenerationTable>> Create(int64_t slots, bool shared);

  // nullopt: all slots are taken.
  std::optional<GenerationSlot> Take();

  int64_t taken() const;
  // The mapping for readers: the slots' values, one after another. -1 if not shared.
  int descriptor() const { return mapping_->descriptor(); }
  int64_t bytes() const { return mapping_->bytes(); }

 private:
  friend class GenerationSlot;
  GenerationTable(std::unique_ptr<Mapping> mapping, int64_t slots) : mapping_(std::move(mapping)), slots_(slots) {}
  std::atomic<uint64_t>& Value(uint64_t slot) const {
    return reinterpret_cast<std::atomic<uint64_t>*>(mapping_->base())[slot];
  }
  void GiveBack(uint64_t slot);

  const std::unique_ptr<Mapping> mapping_;
  const int64_t slots_;
  mutable Mutex mutex_;
  // Recently used slots are reused first, so that a sparsely used table takes little memory.
  std::vector<uint64_t> free_ ABSL_GUARDED_BY(mutex_);
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;  // slots from here on were never taken
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_GENERATIONS_H_
