// Clients ask this node only for copies that it reports, and it reports only those that match the owners'. So a failure
// here costs one copy, and nothing else. Nothing is removed here either: a copy that is no longer kept is an encoding
// of a slot that the node does not own, like any other (unowned.h).
#include "store/cluster/repair/hot_copies.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/cluster/repair/plan.h"

namespace kvlink::store::cluster {
namespace {

constexpr int64_t kMemoryPart = 8;  // further copies take at most this fraction (1/8) of the memory tier

engine::EncodingKey KeyOf(const HotName& name) { return {name.ns, name.identity, name.codec}; }

}  // namespace

HotCopies::HotCopies(RepairContext* context) : context_(context), copier_(context, /*threads=*/1) {}

std::set<HotName> HotCopies::WantedHere(const View& view) const {
  std::set<HotName> wanted;
  if (view.hot == nullptr) return wanted;
  const auto& members = view.placement.members();
  for (const HotView::Encoding& encoding : view.hot->encodings()) {
    // The members that rank next take the place of those that are not alive.
    int left = encoding.copies;
    for (const uint16_t member : FurtherMembers(view.placement, SlotOf(encoding.name.identity), kMaxCopies)) {
      if (!view.alive(member)) continue;
      if (left-- == 0) break;
      if (members[member].node_id == context_->options.self) wanted.insert(encoding.name);
    }
  }
  return wanted;
}

bool HotCopies::AtOwners(const View& view, const HotName& name, Offered* offered) {
  bool all = true;
  const int slot = SlotOf(name.identity);
  for (const uint16_t owner : AllOwners(view.placement, slot)) {
    const NodeId& node = view.placement.members()[owner].node_id;
    const std::string& address = view.status[owner].address;
    if (node == context_->options.self) continue;  // it has become one
    if (!view.alive(owner)) {
      all = false;
      continue;
    }
    const auto listed = context_->peers.ListSlot(node, address, slot, [&](SlotListing* listing) -> absl::Status {
      KVLINK_RETURN_IF_ERROR(context_->CheckDrops(listing->dropped));
      for (SlotEntry& entry : listing->encodings) {
        if (HotName{entry.ns, entry.identity, entry.codec} != name) continue;
        offered->Add(std::move(entry), {node, address, listing->dropped});
      }
      return absl::OkStatus();
    });
    all &= listed.ok();
  }
  return all;
}

bool HotCopies::HasRoomFor(const SlotEntry& entry) const {
  int64_t bytes = entry.bytes;
  for (const auto& [name, kept] : kept_) bytes += kept.held ? kept.bytes : 0;
  if (bytes > context_->engine->Stats().dram_bytes / kMemoryPart) return false;
  return entry.heat >= kHeatToEvict || context_->engine->HasRoom(entry.ns, entry.bytes);
}

void HotCopies::CopyHere(Offered offered, Entry* entry) {
  auto& [name, kept] = *entry;
  kept.held = false;
  if (!HasRoomFor(offered.entry)) {
    return context_->ledger.Count([](RepairStatistics* counts) { ++counts->left_for_room; });
  }
  std::vector<Copy> copies(1);
  copies[0].slot = static_cast<uint16_t>(SlotOf(name.identity));
  copies[0].sources.assign(offered.sources.begin(), offered.sources.end());
  kept.bytes = offered.entry.bytes;
  copies[0].entry = std::move(offered.entry);
  copier_.Run(&copies);
  kept.held = copies[0].outcome == Copy::Outcome::kCopied || copies[0].outcome == Copy::Outcome::kThere;
}

void HotCopies::Compare(const View& view, Entry* entry) {
  auto& [name, kept] = *entry;
  Offered offered;
  const bool all = AtOwners(view, name, &offered);
  const auto here = context_->engine->Find(KeyOf(name));
  if (offered.sources.empty()) {
    // An owner that could not be asked may still have it.
    kept.held = kept.held && here.has_value() && !all;
  } else if (here.has_value() && here->location.etag.bytes >= offered.entry.etag.bytes) {
    // If the etag is greater, the owners' repair fetches it from here; until then it is not what they have.
    kept.held = here->location.etag == offered.entry.etag;
    kept.bytes = here->location.bytes;
  } else {
    CopyHere(std::move(offered), entry);
  }
}

void HotCopies::Tell() {
  std::vector<HotName> held;
  for (const auto& [name, kept] : kept_) {
    if (kept.held) held.push_back(name);
  }
  if (held == told_) return;
  told_ = held;
  context_->ledger.Count([&](RepairStatistics* counts) { counts->hot_held = static_cast<int64_t>(held.size()); });
  context_->options.hold(held);
}

void HotCopies::Look(const View& view) {
  const RepairOptions& options = context_->options;
  const absl::Time now = SteadyNow();
  for (const HotName& name : wanted_) {
    if (kept_.size() == kMaxHotHeld && !kept_.contains(name)) continue;
    kept_[name].until = now + options.keep_hot;
  }
  std::erase_if(kept_, [now](const Entry& entry) { return entry.second.until < now; });
  Tell();
  std::set<engine::EncodingKey> keys;
  for (const auto& [name, kept] : kept_) keys.insert(KeyOf(name));
  context_->kept.Set(std::move(keys));
  for (Entry& entry : kept_) {
    if (context_->stopping.begun()) return;
    Kept& kept = entry.second;
    // Announced until now, and evicted since.
    kept.held = kept.held && context_->engine->Find(KeyOf(entry.first)).has_value();
    if (now >= kept.compare) {
      Compare(view, &entry);
      kept.compare = SteadyNow() + options.hot_compare;
    }
    Tell();
  }
}

void HotCopies::Run() {
  while (!context_->stopping.begun()) {
    std::shared_ptr<const View> view = context_->views->view();
    if (view != view_) {
      view_ = std::move(view);
      wanted_ = WantedHere(*view_);
    }
    Look(*view_);
    const absl::Time next = SteadyNow() + context_->options.hot_look;
    while (!context_->stopping.begun() && SteadyNow() < next) {
      if (context_->views->WaitForChange(view_, std::min(next, SteadyNow() + kStopLook)) != view_) break;
    }
  }
}

}  // namespace kvlink::store::cluster
