// First asks one peer after the other for digests, which takes few messages; then lists slot after slot in the plan's
// order, collecting copies until there are enough to keep the copier busy for a while. A slot is done when it was
// compared with every peer and no copy of it failed.
#include "store/cluster/repair/pass.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

constexpr size_t kBatch = 1024;
constexpr int64_t kBatchBytes = int64_t{256} << 20;
constexpr int64_t kHotPart = 16;

}  // namespace

Pass::Pass(RepairContext* context, Copier* copier, std::shared_ptr<const View> view, const RepairPlan& plan,
           PassScope scope)
    : context_(context),
      copier_(copier),
      view_(std::move(view)),
      scope_(std::move(scope)),
      memory_bytes_(context->engine->Stats().dram_bytes),
      hot_bytes_(context->engine->Stats().capacity_bytes / kHotPart) {
  for (const OwnedSlot& slot : plan.slots) {
    const bool everywhere = scope_.whole || scope_.slots.test(slot.slot);
    if (!everywhere && scope_.peers.empty()) continue;
    work_.push_back({.slot = &slot, .everywhere = everywhere});
    left_.set(slot.slot);
  }
}

bool Pass::Goes() const {
  return !context_->stopping.begun() && context_->ledger.valid() &&
         context_->views->view()->placement.epoch() == view_->placement.epoch();
}

bool Pass::Run() {
  if (!Compare()) return false;
  for (Work& work : work_) {
    if (work.differ.empty()) continue;
    if (!Goes()) return false;
    List(&work);
    listed_.push_back(&work);
    if (copies_.size() >= kBatch || copy_bytes_ >= kBatchBytes) CopyAll();
  }
  CopyAll();
  return Goes();
}

bool Pass::Compare() {
  WorkByPeer by_peer;
  for (Work& work : work_) {
    work.unknown = work.everywhere && !work.slot->given;
    for (const uint16_t peer : work.slot->peers) {
      if (work.everywhere || Asks(peer)) by_peer[peer].push_back(&work);
    }
  }
  for (const auto& [peer, work] : by_peer) {
    if (!Goes()) return false;
    if (CompareWith(peer, work, /*owner=*/true)) continue;
    context_->ledger.Count([](RepairStatistics* counts) { ++counts->peer_errors; });
  }
  for (const auto& [peer, work] : OfStrangers()) {
    if (!Goes()) return false;
    CompareWith(peer, work, /*owner=*/false);
  }
  for (const Work& work : work_) {
    if (work.differ.empty() && !work.unknown) {
      Settle(work);
    } else {
      context_->ledger.Left(work.slot->slot, work.more);
    }
  }
  context_->ledger.Tell();
  return Goes();
}

void Pass::Settle(const Work& work) {
  context_->ledger.Done(work.slot->slot);
  left_.reset(work.slot->slot);
}

Pass::WorkByPeer Pass::OfStrangers() {
  WorkByPeer by_peer;
  const std::vector<Member>& members = view_->placement.members();
  for (size_t i = 0; i < members.size(); ++i) {
    const auto member = static_cast<uint16_t>(i);
    if (members[i].node_id == context_->options.self || !view_->alive(member) || !Asks(member)) continue;
    for (Work& work : work_) {
      const SlotOwners& peers = work.slot->peers;
      if (std::find(peers.begin(), peers.end(), member) == peers.end()) by_peer[member].push_back(&work);
    }
  }
  return by_peer;
}

bool Pass::CompareWith(uint16_t peer, const std::vector<Work*>& work, bool owner) {
  const NodeId& node = view_->placement.members()[peer].node_id;
  const std::string& address = view_->status[peer].address;
  const auto fail = [&work, owner](size_t from) {
    for (size_t i = from; i < work.size(); ++i) work[i]->unknown |= owner;
    return false;
  };
  const auto opened = context_->peers.Get(node, address);
  if (!opened.ok()) return fail(0);
  std::vector<uint16_t> slots;
  for (size_t begin = 0; begin < work.size(); begin += kMaxSlotsAsked) {
    if (context_->stopping.begun()) return fail(begin);
    const size_t end = std::min(work.size(), begin + kMaxSlotsAsked);
    slots.clear();
    for (size_t i = begin; i < end; ++i) slots.push_back(work[i]->slot->slot);
    const auto theirs = (*opened)->SlotDigests(slots);
    if (!theirs.ok() || theirs->size() != slots.size()) {
      context_->peers.Failed(node, address,
                             theirs.ok() ? absl::InternalError("it sent digests of other slots") : theirs.status());
      return fail(begin);
    }
    context_->peers.Worked(node);
    const std::vector<SlotDigest> ours = context_->engine->SlotDigests(slots);
    for (size_t i = begin; i < end; ++i) {
      const SlotDigest &a = ours[i - begin], &b = (*theirs)[i - begin];
      if (a == b || b.encodings == 0) continue;
      work[i]->differ.push_back(peer);
      work[i]->more = std::max(work[i]->more, static_cast<int64_t>(b.bytes) - static_cast<int64_t>(a.bytes));
    }
    context_->ledger.Count(
        [&slots](RepairStatistics* counts) { counts->slots_compared += static_cast<int64_t>(slots.size()); });
  }
  return true;
}

void Pass::List(Work* work) {
  WantedByKey wanted;
  for (const uint16_t peer : work->differ) {
    if (ListAt(peer, *work, &wanted).ok()) continue;
    work->unknown = true;
    context_->ledger.Count([](RepairStatistics* counts) { ++counts->peer_errors; });
  }
  context_->ledger.Count([](RepairStatistics* counts) { ++counts->slots_listed; });
  Choose(work, std::move(wanted));
}

absl::Status Pass::ListAt(uint16_t peer, const Work& work, WantedByKey* wanted) {
  const NodeId& node = view_->placement.members()[peer].node_id;
  const std::string& address = view_->status[peer].address;
  return context_->peers.ListSlot(node, address, work.slot->slot, [&](SlotListing* listing) -> absl::Status {
    if (context_->stopping.begun()) return absl::CancelledError("repair is stopping");
    KVLINK_RETURN_IF_ERROR(context_->CheckDrops(listing->dropped));
    for (SlotEntry& entry : listing->encodings) {
      engine::EncodingKey key{entry.ns, entry.identity, entry.codec};
      const auto here = context_->engine->Find(key);
      if (here.has_value() && here->location.etag.bytes >= entry.etag.bytes) continue;
      (*wanted)[std::move(key)].Add(std::move(entry), {node, address, listing->dropped});
    }
    return absl::OkStatus();
  });
}

void Pass::Choose(Work* work, WantedByKey wanted) {
  for (auto& [key, want] : wanted) {
    Copy copy{.slot = work->slot->slot};
    bool dropped = false;
    for (CopySource& source : want.sources) {
      if (context_->drops != nullptr &&
          context_->drops->Ask(key.ns, key.identity, source.dropped) == DropMemory::Verdict::kDropped) {
        dropped = true;
      } else {
        copy.sources.push_back(std::move(source));
      }
    }
    if (dropped && copy.sources.empty()) {
      context_->ledger.Count([](RepairStatistics* counts) { ++counts->left_as_dropped; });
      continue;
    }
    if (!HasRoomFor(want.entry)) {
      context_->ledger.Count([](RepairStatistics* counts) { ++counts->left_for_room; });
      continue;
    }
    copy_bytes_ += want.entry.bytes;
    copy.entry = std::move(want.entry);
    copies_.push_back(std::move(copy));
  }
}

bool Pass::HasRoomFor(const SlotEntry& entry) {
  if (entry.bytes > memory_bytes_) return false;
  if (context_->engine->HasRoom(entry.ns, copy_bytes_ + entry.bytes)) return true;
  if (entry.heat < kHeatToEvict || hot_taken_ + entry.bytes > hot_bytes_) return false;
  hot_taken_ += entry.bytes;
  return true;
}

void Pass::CopyAll() {
  copier_->Run(&copies_);
  std::bitset<kSlots> again;
  for (const Copy& copy : copies_) {
    if (copy.outcome == Copy::Outcome::kFailed) again.set(copy.slot);
    context_->ledger.Count([&copy](RepairStatistics* counts) {
      counts->failed += copy.outcome == Copy::Outcome::kFailed;
      counts->left_for_room += copy.outcome == Copy::Outcome::kNoRoom;
      counts->left_as_dropped += copy.outcome == Copy::Outcome::kDropped;
    });
  }
  for (const Work* const work : listed_) {
    if (!work->unknown && !again.test(work->slot->slot)) Settle(*work);
  }
  copies_.clear();
  listed_.clear();
  copy_bytes_ = 0;
  context_->ledger.Tell();
}

}  // namespace kvlink::store::cluster
