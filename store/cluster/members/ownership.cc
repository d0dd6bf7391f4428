// Keeps a bit for each slot of each epoch, since every request asks once for each of its identities.
#include "store/cluster/members/ownership.h"

#include <algorithm>
#include <utility>

namespace kvlink::store::cluster {

void MemberOwnership::SetNode(const NodeId& id) {
  MutexLock lock(&update_mutex_);
  node_ = id;
  if (view_ != nullptr) Add(view_->placement);
  view_ = nullptr;
}

void MemberOwnership::Update(const std::shared_ptr<const View>& view) {
  MutexLock lock(&update_mutex_);
  if (!node_.has_value()) {
    view_ = view;
    return;
  }
  const auto known = eras();
  // The epoch alone does not tell: after etcd went back, it may reach the same epoch with other members.
  if (known != nullptr && known->front()->epoch == view->placement.epoch() && members_ == view->placement.members()) {
    return;
  }
  Add(view->placement);
}

void MemberOwnership::Add(const Placement& placement) {
  members_ = placement.members();
  auto era = std::make_shared<Era>();
  era->epoch = placement.epoch();
  bool member = false;
  for (const PlacementTable* table : {&placement.current(), &placement.next()}) {
    const auto& members = table->members();
    const auto self =
        std::find_if(members.begin(), members.end(),
                     [this](const Member& one) ABSL_NO_THREAD_SAFETY_ANALYSIS { return one.node_id == *node_; });
    if (self == members.end()) continue;
    member = true;
    const auto index = static_cast<uint16_t>(self - members.begin());
    for (int slot = 0; slot < kSlots; ++slot) {
      const absl::Span<const uint16_t> owners = table->Owners(slot);
      if (std::find(owners.begin(), owners.end(), index) == owners.end()) continue;
      era->owned.set(slot);
      if (table == &placement.next()) era->next.set(slot);
    }
  }
  if (member) era->share = static_cast<double>(era->owned.count()) / (kSlots * placement.copies());
  auto made = std::make_shared<Eras>();
  made->push_back(era);
  // An epoch that is not greater than the last belongs to another history, whose former epochs may have differed.
  if (const auto known = eras(); known != nullptr && known->front()->epoch < era->epoch) {
    const size_t former = std::min(known->size(), kFormerEpochs);
    made->insert(made->end(), known->begin(), known->begin() + static_cast<ptrdiff_t>(former));
  }
  MutexLock lock(&mutex_);
  eras_ = std::move(made);
}

std::shared_ptr<const MemberOwnership::Eras> MemberOwnership::eras() const {
  MutexLock lock(&mutex_);
  return eras_;
}

std::optional<double> MemberOwnership::share() const {
  const auto known = eras();
  return known == nullptr ? std::nullopt : known->front()->share;
}

std::shared_ptr<const std::bitset<kSlots>> MemberOwnership::owned() const {
  const auto known = eras();
  if (known == nullptr || !known->front()->share.has_value()) return nullptr;
  return {known->front(), &known->front()->owned};
}

uint64_t MemberOwnership::epoch() const {
  const auto known = eras();
  return known == nullptr ? 0 : known->front()->epoch;
}

bool MemberOwnership::Owns(const Identity& identity, uint64_t epoch) const {
  const auto known = eras();
  if (known == nullptr) return true;
  for (const auto& era : *known) {
    if (era->epoch == epoch) return era->owned.test(SlotOf(identity));
  }
  return false;
}

bool MemberOwnership::Takes(const Identity& identity) const {
  const auto known = eras();
  return known == nullptr || known->front()->next.test(SlotOf(identity));
}

void MemberOwnership::AskDropsOf(AskDropped ask) {
  MutexLock lock(&mutex_);
  ask_dropped_ = std::make_shared<const AskDropped>(std::move(ask));
}

bool MemberOwnership::DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const {
  std::shared_ptr<const AskDropped> ask;
  {
    MutexLock lock(&mutex_);
    ask = ask_dropped_;
  }
  return ask != nullptr && (*ask)(ns, identity, since);
}

}  // namespace kvlink::store::cluster
