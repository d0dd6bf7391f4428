// Decay without touching every entry: instead of shrinking old counts, new ones weigh more. A byte read at t weighs
// 2^((t - base) / half-life). Before weights exceed the range of a double, all counts are rescaled to a later base.
#include "store/node/read_rates.h"

#include <algorithm>
#include <cmath>

#include "absl/algorithm/container.h"

namespace kvlink::store::node {
namespace {

constexpr double kMaxHalfLives = 64;  // between bases

}  // namespace

double ReadRates::WeightAt(absl::Time now) const { return std::exp2(absl::FDivDuration(now - base_, half_life_)); }

void ReadRates::Rebase(absl::Time now) {
  if (now - base_ < kMaxHalfLives * half_life_) return;
  const double left = base_ == absl::InfinitePast() ? 0 : 1 / WeightAt(now);
  bytes_ *= left;
  for (Entry& entry : entries_) {
    entry.bytes *= left;
    entry.reads *= left;
    entry.before *= left;
  }
  base_ = now;
}

ReadRates::Entry& ReadRates::EntryOf(const engine::EncodingKey& key) {
  // Identities are hashes, so nearly every comparison ends at their first bytes.
  const auto known = absl::c_find_if(
      entries_, [&key](const Entry& entry) { return entry.key.identity == key.identity && entry.key == key; });
  if (known != entries_.end()) return *known;
  if (entries_.size() < kEntries) return entries_.emplace_back(Entry{.key = key});
  Entry& least = *absl::c_min_element(entries_, [](const Entry& a, const Entry& b) { return a.most() < b.most(); });
  least = {.key = key, .before = least.most()};
  return least;
}

void ReadRates::Add(const engine::EncodingKey& key, int64_t bytes, absl::Time now) {
  MutexLock lock(&mutex_);
  Rebase(now);
  const double weight = WeightAt(now);
  Entry& entry = EntryOf(key);
  entry.bytes += weight * static_cast<double>(bytes);
  entry.reads += weight;
  bytes_ += weight * static_cast<double>(bytes);
}

ReadRates::Snapshot ReadRates::Now(absl::Time now) const {
  Snapshot snapshot;
  MutexLock lock(&mutex_);
  if (entries_.empty()) return snapshot;
  // A steady rate sums up to rate * half-life / ln 2.
  const double scale = std::log(2.0) / absl::ToDoubleSeconds(half_life_) / WeightAt(now);
  snapshot.bytes_per_second = bytes_ * scale;
  for (const Entry& entry : entries_) {
    snapshot.encodings.push_back({entry.key, entry.bytes * scale, entry.reads * scale});
  }
  absl::c_sort(snapshot.encodings,
               [](const Rate& a, const Rate& b) { return a.bytes_per_second > b.bytes_per_second; });
  return snapshot;
}

}  // namespace kvlink::store::node
