// The most recent ids of a run, to find ids used twice. Takes some 40 MB, whatever the corpus; duplicates further apart
// are found by their catalog entries (Run::IsOfThisRun).
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_RECENT_IDS_H_
#define KVLINK_WORKER_INGEST_RECENT_IDS_H_

#include <cstddef>
#include <deque>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace kvlink::ingest {

class RecentIds {
 public:
  // Returns where the id was used before, if known.
  std::optional<std::string> Add(const std::string& id, const std::string& where) {
    const auto [it, is_new] = where_.try_emplace(id, where);
    if (!is_new) return it->second;
    order_.push_back(id);
    if (order_.size() > kMaxRecentIds) {
      where_.erase(order_.front());
      order_.pop_front();
    }
    return std::nullopt;
  }

 private:
  static constexpr size_t kMaxRecentIds = size_t{1} << 18;

  absl::flat_hash_map<std::string, std::string> where_;
  std::deque<std::string> order_;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_RECENT_IDS_H_
