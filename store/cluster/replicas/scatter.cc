// The caller's thread does everything: it sends requests without waiting (store/client/pending.h), and their ends
// arrive in one queue. It works in rounds, so that encodings missed at several nodes cost one more request per node and
// not one per encoding.
#include "store/cluster/replicas/scatter.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/algorithm/container.h"
#include "base/clock.h"

namespace kvlink::store::cluster {
namespace {

std::minstd_rand& Random() {
  thread_local std::minstd_rand random{std::random_device{}()};
  return random;
}

}  // namespace

Scatter::Scatter(const Cluster* cluster, absl::Span<const Identity> identities, Work work, Ask ask)
    : cluster_(cluster),
      identities_(identities),
      work_(work),
      ask_(std::move(ask)),
      nodes_(cluster->nodes->Now()),
      items_(identities.size()) {
  std::vector<size_t> all(identities.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  ChooseOrders(all);
}

Scatter::~Scatter() {
  for (const Sent& sent : sent_) {
    sent.node->under_way() -= static_cast<int>(sent.which.size());
    // Requests left behind as stuck were counted already.
    if (!sent.left_behind || sent.hedged) sent.node->GivenUp(work_, SteadyNow() - sent.at);
  }
}

void Scatter::ChooseOrders(absl::Span<const size_t> which) {
  // Look at each node once: changes while orders are chosen come from this call itself.
  std::vector<std::optional<Condition>> conditions(nodes_->nodes.size());
  const auto condition = [&](uint16_t member) {
    if (!conditions[member].has_value()) conditions[member] = nodes_->nodes[member]->condition(work_);
    return *conditions[member];
  };
  std::vector<Owners> orders;
  std::vector<int> equals(which.size());
  for (const size_t i : which) {
    int* const equal = &equals[orders.size()];
    orders.push_back(OrderOfOwners(*nodes_->view, identities_[i], cluster_->zone, condition, &Random(), equal));
  }
  // The cost of a lookup grows with the number of requests, that of a read with the number of encodings.
  if (work_ == Work::kLookup) AskFewNodes(&orders, equals, condition, &Random());
  for (size_t k = 0; k < which.size(); ++k) {
    const size_t i = which[k];
    Item& item = items_[i];
    item.order.clear();
    item.last_resort = nullptr;
    bool any = false;  // a node may be asked
    for (const uint16_t member : orders[k]) {
      const std::shared_ptr<ClusterNode>& node = nodes_->nodes[member];
      if (absl::c_linear_search(item.asked, node)) continue;
      if (condition(member).resting) {
        const auto known = absl::c_find_if(resting_, [&](const auto& one) { return one.first == node; });
        if (known == resting_.end()) resting_.emplace_back(node, i);
        // Ask it first only as a probe, and only if there is no other node.
        const auto probes = [&] {
          if (absl::c_any_of(probed_, [&](const auto& one) { return one.first == node; })) return true;
          Breaker::Probe probe = node->TryProbe(work_);
          if (probe == nullptr) return false;
          probed_.emplace_back(node, std::move(probe));
          return true;
        };
        if (any || !probes()) {
          if (item.last_resort == nullptr && orders[k].size() > 1) item.last_resort = node;
          continue;
        }
      }
      any = true;
      item.order.push_back(node);
    }
    absl::c_reverse(item.order);
  }
}

bool Scatter::SendRound() {
  std::map<ClusterNode*, std::pair<std::shared_ptr<ClusterNode>, std::vector<size_t>>> round;
  for (size_t i = 0; i < items_.size(); ++i) {
    Item& item = items_[i];
    if (item.had || item.awaited > 0) continue;
    // If no node has answered, a resting one may be back, or this machine was slow: ask it, but wait only briefly.
    if (item.order.empty() && item.last_resort != nullptr && !item.missed) {
      item.order.push_back(item.last_resort);
      item.missed = true;
    }
    if (item.order.empty()) continue;
    std::shared_ptr<ClusterNode> node = std::move(item.order.back());
    item.order.pop_back();
    if (!item.asked.empty()) ++cluster_->counters->next_owners;
    item.asked.push_back(node);
    auto& group = round[node.get()];
    group.first = std::move(node);
    group.second.push_back(i);
  }
  for (auto& [key, group] : round) Send(group.first, std::move(group.second));
  return !round.empty();
}

void Scatter::Send(const std::shared_ptr<ClusterNode>& node, std::vector<size_t> which) {
  Sent sent;
  sent.tag = next_tag_++;
  sent.at = sent.signed_at = SteadyNow();
  sent.progress = node->Progress();
  auto request = ask_(node, which, {arrivals_, sent.tag});
  cluster_->hedges->Asked(1);
  if (!request.ok()) {  // nothing was sent
    if (absl::IsUnavailable(request.status())) node->Failed(work_);
    return Refuse(request.status());
  }
  sent.node = node;
  sent.request = *std::move(request);
  node->under_way() += static_cast<int>(which.size());
  for (const size_t i : which) {
    ++items_[i].waiting;
    ++items_[i].awaited;
  }
  sent.which = std::move(which);
  sent_.push_back(std::move(sent));
}

void Scatter::Take(Sent* sent, absl::Time at) {
  const auto verdicts = sent->request->Poll();
  if (absl::IsDeadlineExceeded(verdicts.status())) return;
  sent->node->under_way() -= static_cast<int>(sent->which.size());
  const bool had = verdicts.ok() && absl::c_linear_search(*verdicts, Verdict::kHad);
  const absl::Status status = verdicts.ok() && !had ? absl::NotFoundError("") : verdicts.status();
  if (verdicts.ok() || Counts(*sent)) sent->node->Ended(work_, status, at - sent->at);
  answered_ = answered_ || verdicts.ok();
  Refuse(verdicts.status());
  for (size_t k = 0; k < sent->which.size(); ++k) {
    Item& item = items_[sent->which[k]];
    --item.waiting;
    if (!sent->left_behind) --item.awaited;
    if (!verdicts.ok()) continue;
    if ((*verdicts)[k] == Verdict::kMoved) {
      ++cluster_->counters->moved;
      // A node with an older view does not know where the encoding is.
      item.moved = item.moved || sent->request->moved_epoch() > nodes_->view->placement.epoch();
    }
    item.missed = item.missed || (*verdicts)[k] == Verdict::kMissed;
    item.had = item.had || (*verdicts)[k] == Verdict::kHad;
  }
  sent_.remove_if([sent](const Sent& one) { return &one == sent; });
}

bool Scatter::Counts(const Sent& sent) const {
  // A node left behind as stuck was counted then, and the end of the call's time is not the node's failure.
  return (!sent.left_behind || sent.hedged) && (!over_ || SteadyNow() >= sent.signed_at + kNoProgress);
}

void Scatter::Refuse(const absl::Status& status) {
  if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status) ||
      absl::IsUnimplemented(status)) {
    refused_ = status;
  }
}

void Scatter::LeaveBehind(Sent* sent) {
  sent->left_behind = true;
  for (const size_t i : sent->which) --items_[i].awaited;
}

absl::Time Scatter::CheckProgress(absl::Time now) {
  absl::Time next = absl::InfiniteFuture();
  for (Sent& sent : sent_) {
    if (sent.left_behind) continue;
    const int64_t progress = sent.node->Progress();
    if (progress != sent.progress) {
      sent.progress = progress;
      sent.signed_at = signed_at_ = now;
    }
    const absl::Time stuck = sent.signed_at + kNoProgress, slow = sent.at + sent.node->HedgeAfter(work_);
    const bool others = absl::c_any_of(sent.which, [&](size_t i) { return !items_[i].order.empty(); });
    if (now >= stuck) {
      ++cluster_->counters->stuck;
      sent.node->Failed(work_, now - sent.at);
      LeaveBehind(&sent);
      next = now;
    } else if (now >= slow && others && cluster_->hedges->TryTake()) {
      ++cluster_->counters->hedges;
      sent.hedged = true;
      LeaveBehind(&sent);
      next = now;
    } else {
      next = std::min(next, now < slow && others ? std::min(slow, stuck) : stuck);
    }
  }
  return next;
}

bool Scatter::LookAgain(absl::Time deadline) {
  std::vector<size_t> moved;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (!items_[i].had && items_[i].moved) moved.push_back(i);
  }
  if (moved.empty() || looked_again_) return false;
  looked_again_ = true;
  auto nodes = cluster_->nodes->After(nodes_, std::min(deadline, SteadyNow() + kNoProgress));
  if (nodes->view == nodes_->view) return false;
  nodes_ = std::move(nodes);
  ChooseOrders(moved);
  return true;
}

bool Scatter::Unfinished() const {
  return absl::c_any_of(items_, [](const Item& item) { return !item.had && item.waiting > 0; });
}

absl::Time Scatter::Patience(absl::Time begun, absl::Time deadline) const {
  const bool all_missed = absl::c_all_of(
      items_, [](const Item& item) { return item.had || item.waiting == 0 || (item.missed && item.awaited == 0); });
  return all_missed ? std::min(deadline, begun + kMissPatience) : deadline;
}

void Scatter::Run(absl::Time deadline) {
  const absl::Time begun = SteadyNow();
  signed_at_ = begun;
  for (;;) {
    const bool awaited = absl::c_any_of(items_, [](const Item& item) { return !item.had && item.awaited > 0; });
    if (!awaited && SendRound()) continue;
    if (!Unfinished()) {
      if (!LookAgain(deadline)) return;
      continue;
    }
    const absl::Time now = SteadyNow(), look = CheckProgress(now);
    const absl::Time until = std::min(Patience(begun, deadline), signed_at_ + cluster_->patience);
    if (now >= until) break;
    const auto awaited_requests = absl::c_count_if(sent_, [](const Sent& sent) { return !sent.left_behind; });
    // A lookup cannot use its first answers before the last has come, so it wakes once.
    const size_t wanted = work_ == Work::kLookup ? std::max<size_t>(1, awaited_requests) : 1;
    absl::Time at;
    for (auto tag = arrivals_->Next(std::min(look, until), wanted, &at); tag.has_value();
         tag = arrivals_->Next(absl::InfinitePast(), 1, &at)) {
      signed_at_ = SteadyNow();
      const auto sent = absl::c_find_if(sent_, [&](const Sent& one) { return one.tag == *tag; });
      if (sent != sent_.end()) Take(&*sent, at);
    }
  }
  over_ = true;
  const absl::Time now = SteadyNow();
  for (auto it = sent_.begin(); it != sent_.end();) {
    it->request->Expire();
    Take(&*it++, now);
  }
}

}  // namespace kvlink::store::cluster
