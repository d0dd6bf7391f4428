// Ownership is known only from the start of the process on, so the node counts as the owner of every slot until then.
#include "store/cluster/repair/unowned.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

constexpr int64_t kPage = 1024;

}  // namespace

Unowned::Unowned(RepairContext* context) : context_(context), owned_until_(kSlots, SteadyNow()) {}

void Unowned::Follow(const RepairPlan& plan) {
  const absl::Time now = SteadyNow();
  for (int slot = 0; slot < kSlots; ++slot) {
    if (owned_.test(static_cast<size_t>(slot))) owned_until_[slot] = now;
  }
  owned_ = plan.owned;
  // Never later than before, however often members come and go: owned_until_ decides for each slot.
  DueAt(now + context_->options.keep_unowned);
}

void Unowned::LookAgain() { DueAt(SteadyNow()); }

void Unowned::Remove(const View& view, absl::Time until) {
  const RepairOptions& options = context_->options;
  const absl::Time before = SteadyNow() - options.keep_unowned;
  if (from_ == 0) again_ = absl::InfiniteFuture();
  std::vector<uint16_t> slots;
  for (int slot = from_; slot < kSlots; ++slot) {
    if (owned_.test(static_cast<size_t>(slot))) continue;
    if (owned_until_[slot] <= before) {
      slots.push_back(static_cast<uint16_t>(slot));
    } else {
      again_ = std::min(again_, owned_until_[slot] + options.keep_unowned);
    }
  }
  const std::vector<SlotDigest> digests = context_->engine->SlotDigests(slots);
  for (size_t i = 0; i < slots.size(); ++i) {
    if (digests[i].encodings == 0) continue;
    from_ = slots[i];
    due_ = absl::InfinitePast();
    if (context_->stopping.begun() || context_->views->view()->placement.epoch() != view.placement.epoch()) return;
    const Outcome outcome = SteadyNow() < until ? RemoveSlot(view, slots[i], until) : Outcome::kOutOfTime;
    if (outcome == Outcome::kOutOfTime) return;
    if (outcome == Outcome::kRemains) again_ = std::min(again_, SteadyNow() + options.interval);
  }
  from_ = 0;
  due_ = again_;
}

std::optional<Unowned::Owned> Unowned::AtOwners(const View& view, int slot) {
  Owned all;
  bool first = true;
  const SlotOwners owners = AllOwners(view.placement, slot);
  for (const uint16_t owner : owners) {
    if (!view.alive(owner)) return std::nullopt;
    Owned here;
    const absl::Status listed = context_->peers.ListSlot(
        view.placement.members()[owner].node_id, view.status[owner].address, slot, [&](SlotListing* listing) {
          for (const SlotEntry& entry : listing->encodings) {
            engine::EncodingKey key{entry.ns, entry.identity, entry.codec};
            const auto known = all.find(key);
            if (!first && known == all.end()) continue;
            Etag least = entry.etag;
            if (!first) least.bytes = std::min(least.bytes, known->second.bytes);
            here.emplace(std::move(key), least);
          }
          return absl::OkStatus();
        });
    if (!listed.ok()) return std::nullopt;
    all = std::move(here);
    first = false;
  }
  if (owners.empty()) return std::nullopt;
  return all;
}

Unowned::Outcome Unowned::RemoveSlot(const View& view, int slot, absl::Time until) {
  const std::optional<Owned> owned = AtOwners(view, slot);
  if (!owned.has_value()) return Outcome::kRemains;
  Outcome all = Outcome::kGone;
  std::optional<engine::EncodingKey> after;
  for (;;) {
    const std::vector<SlotEntry> page = context_->engine->ListSlot(slot, after, kPage);
    if (page.empty()) return all;
    for (const SlotEntry& entry : page) {
      after = {entry.ns, entry.identity, entry.codec};
      if (context_->kept.Has(*after)) continue;
      const auto there = owned->find(*after);
      if (there == owned->end() || there->second.bytes < entry.etag.bytes) {
        all = Outcome::kRemains;
        continue;
      }
      if (!context_->stopping.WaitUntil(context_->rate.Take(entry.bytes, SteadyNow()))) return Outcome::kOutOfTime;
      if (!context_->engine->RemoveEncoding(*after, entry.etag).ok()) {
        all = Outcome::kRemains;
        continue;
      }
      context_->ledger.Count([&entry](RepairStatistics* counts) {
        ++counts->removed;
        counts->removed_bytes += entry.bytes;
      });
      if (SteadyNow() >= until) return Outcome::kOutOfTime;
    }
  }
}

}  // namespace kvlink::store::cluster
