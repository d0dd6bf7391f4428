// Tracks the free bytes of a memory piece: ranges of 4096-byte pages in address space of which some chunks are backed
// by memory ("present").
//
// Thread-safety: none; the owner locks.
#ifndef KVLINK_STORE_ENGINE_MEMORY_PAGE_MAP_H_
#define KVLINK_STORE_ENGINE_MEMORY_PAGE_MAP_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace kvlink::engine {

class PageMap {
 public:
  // Initially no chunk is present.
  PageMap(int64_t chunk_bytes, int chunks) : chunk_bytes_(chunk_bytes), chunks_(chunks) {}

  // Allocates at the start of the smallest free range of at least `bytes`. nullopt: none is that long.
  std::optional<int64_t> Allocate(int64_t bytes);
  // REQUIRES: the range is exactly one that Allocate returned.
  void Free(int64_t offset, int64_t bytes);
  // Whether Allocate would succeed.
  bool Fits(int64_t bytes) const { return by_size_.lower_bound({bytes, 0}) != by_size_.end(); }

  // Makes a chunk present and all of it free. REQUIRES: absent.
  void Add(int chunk);
  // Stops allocating in the chunk; memory freed in it does not become free. REQUIRES: present.
  void Withdraw(int chunk);
  // REQUIRES: withdrawn, and nothing in it is in use.
  void Remove(int chunk);

  // Returns the chunks [first, second) that must be present for `bytes` to fit, with as few absent ones as possible.
  // nullopt: the ranges in use fragment the address space too much.
  std::optional<std::pair<int, int>> Window(int64_t bytes) const;

  bool present(int chunk) const { return chunks_[chunk].present; }
  bool withdrawn(int chunk) const { return chunks_[chunk].withdrawn; }
  // Present, not withdrawn, and unused.
  bool empty(int chunk) const {
    return chunks_[chunk].present && !chunks_[chunk].withdrawn && chunks_[chunk].used == 0;
  }
  int64_t used(int chunk) const { return chunks_[chunk].used; }
  int64_t used() const { return used_; }
  int64_t present_bytes() const { return present_ * chunk_bytes_; }
  int chunks() const { return static_cast<int>(chunks_.size()); }

 private:
  struct Chunk {
    bool present = false;
    bool withdrawn = false;
    int64_t used = 0;
  };
  // Calls use(chunk, first, bytes) for the part of the range in each chunk.
  template <typename Use>
  void EachChunk(int64_t first, int64_t bytes, Use use) const;
  void Release(int64_t first, int64_t bytes);
  void Insert(int64_t first, int64_t bytes);
  void Erase(std::map<int64_t, int64_t>::iterator range);

  const int64_t chunk_bytes_;
  std::vector<Chunk> chunks_;
  int64_t present_ = 0;
  int64_t used_ = 0;
  std::map<int64_t, int64_t> free_;                // offset -> bytes; adjacent ranges are merged
  std::set<std::pair<int64_t, int64_t>> by_size_;  // (bytes, offset)
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_PAGE_MAP_H_
