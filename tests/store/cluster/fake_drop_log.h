// A drop log in memory, with the promises of store/database/drop_log.h: positions, registration, trimming, and the ways
// in which a database disappears and comes back older.
#ifndef KVLINK_TESTS_STORE_CLUSTER_FAKE_DROP_LOG_H_
#define KVLINK_TESTS_STORE_CLUSTER_FAKE_DROP_LOG_H_

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "store/database/drop_log.h"

namespace kvlink::testing {

// Thread-safe.
class FakeDropLog : public store::database::DropLog {
 public:
  using NodeId = store::database::NodeId;
  using DropPosition = store::database::DropPosition;

  void Append(const std::string& ns, std::optional<Identity> identity) {
    MutexLock lock(&mutex_);
    last_ = {last_.transaction + 1, 1};
    rows_.push_back({last_, {ns, identity}});
  }
  // Other transactions continue.
  void MoveOn() {
    MutexLock lock(&mutex_);
    last_ = {last_.transaction + 1, 0};
  }
  // Trims all rows so far, whether or not all nodes have read them.
  void TrimAll() {
    MutexLock lock(&mutex_);
    rows_.clear();
    trimmed_ = last_;
  }
  void SetGone(bool gone) {
    MutexLock lock(&mutex_);
    gone_ = gone;
  }
  // Positions stored by all nodes.
  int64_t stores() {
    MutexLock lock(&mutex_);
    return stores_;
  }
  // Makes the node's registrations fail, while the rest of the log works.
  void RefuseRegistration(bool refuse) {
    MutexLock lock(&mutex_);
    refuses_ = refuse;
  }
  // The next Resume that registers a node reports an error.
  void LoseAnswer() {
    MutexLock lock(&mutex_);
    loses_answer_ = true;
  }
  // Opens a transaction whose number lies this far below the end. 0: none.
  void Hold(uint64_t open) {
    MutexLock lock(&mutex_);
    open_ = open;
  }
  // Ends it with a drop.
  void EndHeld(const std::string& ns, std::optional<Identity> identity) {
    MutexLock lock(&mutex_);
    rows_.push_back({{last_.transaction - std::exchange(open_, 0), 1}, {ns, identity}});
    std::sort(rows_.begin(), rows_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  }
  // The current state, to restore later.
  struct State {
    DropPosition last, trimmed;
    std::vector<std::pair<DropPosition, store::database::Drop>> rows;
    std::map<NodeId, DropPosition> consumers;
  };
  State Save() {
    MutexLock lock(&mutex_);
    return {last_, trimmed_, rows_, consumers_};
  }
  void Restore(State state) {
    MutexLock lock(&mutex_);
    last_ = state.last;
    trimmed_ = state.trimmed;
    rows_ = std::move(state.rows);
    consumers_ = std::move(state.consumers);
  }
  // The same from a dump, into a server whose transactions have reached `end`.
  void RestoreInto(uint64_t end, State state) {
    MutexLock lock(&mutex_);
    made_ = last_ = {end, 0};
    trimmed_ = state.trimmed;
    rows_ = std::move(state.rows);
    consumers_ = std::move(state.consumers);
  }
  std::map<NodeId, DropPosition> consumers() {
    MutexLock lock(&mutex_);
    return consumers_;
  }
  DropPosition last() {
    MutexLock lock(&mutex_);
    return last_;
  }

  absl::StatusOr<DropPosition> Register(const NodeId& node, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_ || refuses_) return Gone();
    DropPosition slowest = Horizon();
    for (const auto& [other, position] : consumers_) {
      if (other != node) slowest = std::min(slowest, position);
    }
    return consumers_[node] = std::max(slowest, trimmed_);
  }
  absl::StatusOr<DropPosition> Resume(const NodeId& node, const DropPosition& position, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    const DropPosition from = std::min(position, made_);
    if (from < trimmed_ || position > last_) return absl::OutOfRangeError("trimmed");
    if (from < position) return from;
    consumers_[node] = from;
    if (std::exchange(loses_answer_, false)) return Gone();
    return from;
  }
  absl::StatusOr<DropPosition> PositionOf(const NodeId& node, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    const auto known = consumers_.find(node);
    if (known == consumers_.end()) return absl::OutOfRangeError("the node is not known");
    if (known->second < made_) return absl::OutOfRangeError("it stored its position before the dump");
    return known->second;
  }
  absl::StatusOr<store::database::DropBatch> ReadDrops(const DropPosition& after, int64_t limit, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    if (after < trimmed_ || after > last_) return absl::OutOfRangeError("trimmed, or the database is older");
    store::database::DropBatch batch{.caught_up = true};
    for (const auto& [position, drop] : rows_) {
      if (position <= after || position > Horizon()) continue;
      if (static_cast<int64_t>(batch.drops.size()) == limit) {
        batch.caught_up = false;
        break;
      }
      batch.drops.push_back(drop);
      batch.end = position;
    }
    if (batch.caught_up) batch.end = std::max(after, Horizon());
    return batch;
  }
  absl::Status StorePosition(const NodeId& node, const DropPosition& position, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    ++stores_;
    const auto known = consumers_.find(node);
    if (known == consumers_.end()) return absl::OutOfRangeError("the node is not known");
    known->second = std::max(known->second, position);
    return absl::OkStatus();
  }
  absl::Status Forget(const NodeId& node, absl::Time) override {
    MutexLock lock(&mutex_);
    consumers_.erase(node);
    return absl::OkStatus();
  }
  absl::Status ForgetConsumers(absl::Time) override {
    MutexLock lock(&mutex_);
    consumers_.clear();
    rows_.clear();
    trimmed_ = Horizon();
    return absl::OkStatus();
  }
  absl::StatusOr<DropPosition> End(absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    return last_;
  }
  absl::Status WaitForConsumers(const DropPosition&, absl::Span<const NodeId>, absl::Time) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<int64_t> Trim(absl::Duration, absl::Time) override {
    MutexLock lock(&mutex_);
    if (gone_) return Gone();
    DropPosition slowest = last_;
    for (const auto& [other, position] : consumers_) slowest = std::min(slowest, position);
    const size_t before = rows_.size();
    std::erase_if(rows_, [&](const auto& row) { return row.first <= slowest; });
    trimmed_ = std::max(trimmed_, slowest);
    return static_cast<int64_t>(before - rows_.size());
  }

 private:
  DropPosition Horizon() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return open_ == 0 ? last_ : DropPosition{last_.transaction - open_, 0};
  }
  static absl::Status Gone() { return absl::UnavailableError("the database is gone"); }

  Mutex mutex_;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false, refuses_ ABSL_GUARDED_BY(mutex_) = false;
  bool loses_answer_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t stores_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  DropPosition last_ ABSL_GUARDED_BY(mutex_) = {1, 0}, trimmed_ ABSL_GUARDED_BY(mutex_);
  DropPosition made_ ABSL_GUARDED_BY(mutex_);  // when its tables were
  std::vector<std::pair<DropPosition, store::database::Drop>> rows_ ABSL_GUARDED_BY(mutex_);
  std::map<NodeId, DropPosition> consumers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_FAKE_DROP_LOG_H_
