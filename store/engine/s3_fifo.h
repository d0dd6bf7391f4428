// Eviction order: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). New items enter
// a small queue; those used again there move to the main queue, the rest are evicted early. A ghost remembers an
// evicted item for a while; if the item returns, it enters the main queue directly.
//
// The small queue's share of the weight is not a fixed tenth. An item that returns after it left the small queue shows
// that the queue was too short, and lengthens it; one that returns after it left the main queue shortens it. With a
// fixed share, items used in bursts longer than the small queue would miss where LRU would hit (bench/bench_cache).
//
// Thread-safety: none; the owner locks. Callbacks may require the owner's lock, which a template cannot name; hence
// ABSL_NO_THREAD_SAFETY_ANALYSIS where they are called.
#ifndef KVLINK_STORE_ENGINE_S3_FIFO_H_
#define KVLINK_STORE_ENGINE_S3_FIFO_H_

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"

namespace kvlink::engine {

// An item in the queues.
template <typename Key, typename Ghost>
struct S3FifoItem {
  S3FifoItem* prev = nullptr;
  S3FifoItem* next = nullptr;
  Key key{};
  Ghost ghost{};
  int64_t weight = 0;
  int32_t uses = 0;
  bool in_main = false;
};

// Owns the items and finds them by key, in a map. Types with very many instances store their item themselves.
template <typename Key, typename Ghost>
class S3FifoMap {
 public:
  using Item = S3FifoItem<Key, Ghost>;
  // Null if there is none.
  Item* Find(const Key& key) const {
    const auto it = items_.find(key);
    return it == items_.end() ? nullptr : it->second.get();
  }
  Item* Add(const Key& key) { return (items_[key] = std::make_unique<Item>()).get(); }
  void Erase(const Key& key) { items_.erase(key); }
  size_t size() const { return items_.size(); }

 private:
  absl::flat_hash_map<Key, std::unique_ptr<Item>> items_;
};

// Key: identifies an item in the queues; `Items` finds the item. Ghost: remembers an evicted item.
template <typename Key, typename Ghost = Key, typename Items = S3FifoMap<Key, Ghost>>
class S3Fifo {
 public:
  S3Fifo() = default;
  S3Fifo(const S3Fifo&) = delete;
  S3Fifo& operator=(const S3Fifo&) = delete;

  // REQUIRES: the key is not in the queues.
  void Insert(const Key& key, const Ghost& ghost, int64_t weight) {
    const bool again = ComesBack(absl::HashOf(ghost), weight);
    Item* const item = items_.Add(key);
    *item = {.key = key, .ghost = ghost, .weight = weight, .in_main = again};
    Queue& queue = again ? main_ : small_;
    queue.PushBack(item);
    queue.weight += weight;
  }
  // Records a use. Unknown keys are ignored.
  void Touch(const Key& key) {
    if (Item* const item = items_.Find(key)) item->uses = std::min(item->uses + 1, 3);
  }
  void Erase(const Key& key) {
    Item* const item = items_.Find(key);
    if (item == nullptr) return;
    Queue& queue = item->in_main ? main_ : small_;
    queue.weight -= item->weight;
    queue.Remove(item);
    items_.Erase(key);
  }
  // Removes and returns the next key to evict for which may_evict(key) is true; nullopt if there is none. If the queue
  // whose turn it is has no evictable item, the other one is tried. With `steps`, passes over at most that many items
  // and subtracts them; if it returns nullopt with 0 steps left, another call with the same `pass` continues.
  struct Pass {
    size_t refused = 0, main_steps = 0;
  };
  template <typename MayEvict>
  std::optional<Key> Evict(MayEvict may_evict, size_t* steps = nullptr,
                           Pass* pass = nullptr) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    // Items that may not be evicted are passed over once in the small queue, and in the main queue until the uses of
    // all others have run out.
    Pass own;
    auto& [refused, main_steps] = pass != nullptr ? *pass : own;
    for (;;) {
      const bool small_gives = refused < small_.size;
      const bool main_gives = main_steps <= 4 * main_.size && main_.size > 0;
      if (!small_gives && !main_gives) return std::nullopt;
      if (steps != nullptr && *steps == 0) return std::nullopt;
      if (small_gives && (!main_gives || small_.weight > share_ * weight())) {
        Item* const item = small_.first;
        if (item->uses > 1) {
          item->uses = 0;
          MoveToMain(item);
        } else if (may_evict(item->key)) {
          return TakeOut(item);
        } else {
          ++refused;
          if (steps != nullptr) --*steps;
          small_.Remove(item);
          small_.PushBack(item);
        }
      } else {
        ++main_steps;
        Item* const item = main_.first;
        if (item->uses == 0 && may_evict(item->key)) return TakeOut(item);
        item->uses = std::max(item->uses - 1, 0);
        if (steps != nullptr) --*steps;
        main_.Remove(item);
        main_.PushBack(item);
      }
    }
  }

  // Number of recent uses, 0 to 3. REQUIRES: the key is in the queues.
  int uses(const Key& key) const { return items_.Find(key)->uses; }
  // Whether is(key) is true for any key.
  template <typename Is>
  bool Any(Is is) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (const Queue* queue : {&small_, &main_}) {
      for (const Item* item = queue->first; item != nullptr; item = item->next) {
        if (is(item->key)) return true;
      }
    }
    return false;
  }
  // Calls visit(key) for each key.
  template <typename Visit>
  void ForEach(Visit visit) const {
    Any([&visit](const Key& key) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      visit(key);
      return false;
    });
  }

  int64_t weight() const { return small_.weight + main_.weight; }
  size_t size() const { return items_.size(); }
  // The fraction of the weight that the small queue may hold before it is evicted from first.
  double small_share() const { return share_; }
  size_t ghosts() const { return ghosts_.size(); }

 private:
  static constexpr double kMinShare = 0.1, kMaxShare = 0.9;
  static constexpr size_t kMinGhosts = 64;
  using Item = S3FifoItem<Key, Ghost>;
  struct Queue {
    Item* first = nullptr;
    Item* last = nullptr;
    size_t size = 0;
    int64_t weight = 0;  // maintained by the code that pushes and removes

    void PushBack(Item* item) {
      item->prev = last;
      item->next = nullptr;
      (last != nullptr ? last->next : first) = item;
      last = item;
      ++size;
    }
    void Remove(Item* item) {
      (item->prev != nullptr ? item->prev->next : first) = item->next;
      (item->next != nullptr ? item->next->prev : last) = item->prev;
      --size;
    }
  };
  struct Memory {
    size_t hash;
    int64_t weight;
    bool from_main;
  };
  using Memories = std::list<Memory>;
  struct Ghosts {
    Memories order;  // in order of eviction
    int64_t weight = 0;
  };

  void MoveToMain(Item* item) {
    small_.weight -= item->weight;
    main_.weight += item->weight;
    item->in_main = true;
    small_.Remove(item);
    main_.PushBack(item);
  }
  Key TakeOut(Item* item) {
    const Key key = item->key;
    const Memory memory{absl::HashOf(item->ghost), item->weight, item->in_main};
    Forget(memory.hash);  // left by another item with the same hash
    Ghosts& ghosts = memory.from_main ? main_ghosts_ : small_ghosts_;
    ghosts.weight += memory.weight;
    ghosts_[memory.hash] = ghosts.order.insert(ghosts.order.end(), memory);
    // Limits the ghosts' weight to that of the items, half of it from each queue, and their number to a small multiple.
    while (small_ghosts_.weight + main_ghosts_.weight > weight() ||
           ghosts_.size() > std::max(4 * items_.size(), kMinGhosts)) {
      const bool from_main =
          small_ghosts_.order.empty() || (!main_ghosts_.order.empty() && main_ghosts_.weight > small_ghosts_.weight);
      Forget((from_main ? main_ghosts_ : small_ghosts_).order.front().hash);
    }
    Erase(key);
    return key;
  }
  void Forget(size_t hash) {
    const auto it = ghosts_.find(hash);
    if (it == ghosts_.end()) return;
    Ghosts& ghosts = it->second->from_main ? main_ghosts_ : small_ghosts_;
    ghosts.weight -= it->second->weight;
    ghosts.order.erase(it->second);
    ghosts_.erase(it);
  }
  // Whether a ghost remembers the item; adapts the share according to the queue it had left.
  bool ComesBack(size_t hash, int64_t weight_of_it) {
    const auto it = ghosts_.find(hash);
    if (it == ghosts_.end()) return false;
    // The fewer ghosts a queue has, the more a returning one weighs.
    const double small = std::max<double>(small_ghosts_.weight, 1), main = std::max<double>(main_ghosts_.weight, 1);
    const double part = static_cast<double>(weight_of_it) / std::max<int64_t>(weight(), weight_of_it);
    share_ += part * (it->second->from_main ? -std::max(1.0, small / main) : std::max(1.0, main / small));
    share_ = std::clamp(share_, kMinShare, kMaxShare);
    Forget(hash);
    return true;
  }

  Queue small_, main_;
  double share_ = kMinShare;
  Items items_;
  Ghosts small_ghosts_, main_ghosts_;
  absl::flat_hash_map<size_t, typename Memories::iterator> ghosts_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_S3_FIFO_H_
