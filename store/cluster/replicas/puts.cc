// Writes to all owners at once. Writes that continue after enough owners have acknowledged cannot use the caller's
// slabs, so they use a copy from the beginning; no copy is made if every owner must acknowledge. If copies would take
// too much memory, the caller waits for all owners that still take its bytes, and gives up the others.
#include "store/cluster/replicas/puts.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"
#include "store/client/pending.h"
#include "store/store.h"

namespace kvlink::store::cluster {
namespace {

constexpr int kMaxLooks = 3;  // at the placement, per put
// How often, and after what pause, to retry a node that has not seen yet that it is an owner.
constexpr int kMaxBehind = 10;
constexpr absl::Duration kBehind = absl::Milliseconds(50);
constexpr int kMaxPutsOfNode = 8;  // concurrent
constexpr absl::Duration kTurn = absl::Milliseconds(5);
constexpr std::align_val_t kPage{4096};

}  // namespace

struct Puts::Body {
  Body(const Manifest& put, absl::Span<const absl::Span<const std::byte>> slabs, std::atomic<int64_t>* count)
      : manifest(put), counted(count), bytes(put.bytes()) {
    for (const absl::Span<const std::byte> slab : slabs) {
      auto* const data = static_cast<std::byte*>(::operator new(slab.size(), kPage));
      std::memcpy(data, slab.data(), slab.size());
      spans.emplace_back(data, slab.size());
    }
  }
  ~Body() {
    for (const absl::Span<const std::byte> span : spans) ::operator delete(const_cast<std::byte*>(span.data()), kPage);
    *counted -= bytes;
  }
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;

  const Manifest manifest;
  std::vector<absl::Span<const std::byte>> spans;
  std::atomic<int64_t>* const counted;
  const int64_t bytes;
};

// The put at one owner.
struct Puts::Target {
  ~Target() { GiveUp(); }
  // Ends the put with its status, as far as known.
  void Over(const absl::Status& status) {
    if (pending == nullptr) return;
    // A deadline that expires while the node takes bytes says nothing about the node.
    const bool early = absl::IsDeadlineExceeded(status) && SteadyNow() < node->PutsMoved() + kNoPutSign;
    if (!early) node->Ended(Work::kPut, status);
    pending = nullptr;
    probe = nullptr;
    node->PutEnded(/*answered=*/!IsNoAnswer(status));
  }
  // Ends the put without blaming the node.
  void GiveUp() {
    if (pending != nullptr) node->PutEnded(/*answered=*/false);
    pending = nullptr;
    probe = nullptr;
  }
  std::shared_ptr<ClusterNode> node;
  Breaker::Probe probe;                         // if the node rested
  std::unique_ptr<client::PendingPut> pending;  // null: over
  std::optional<absl::StatusOr<PutResult>> end;
  absl::Time again = absl::InfiniteFuture();  // when to send it again
  bool put_off = false;                       // until the node has fewer puts
  int behind = 0;
  bool under_way() const { return pending != nullptr || again != absl::InfiniteFuture(); }
  bool moved() const { return end.has_value() && MovedEpoch(end->status()).has_value(); }
};

class Puts::Call {
 public:
  Call(Puts* puts, absl::string_view ns, const Manifest& manifest, absl::Span<const absl::Span<const std::byte>> slabs,
       absl::Time deadline)
      : puts_(puts), cluster_(puts->cluster_), ns_(ns), manifest_(manifest), slabs_(slabs), deadline_(deadline) {}

  absl::StatusOr<PutResult> Run();

 private:
  int acknowledged() const { return nodes_->view->settings.acknowledged; }
  // Sends to the owners that this call has not sent to yet.
  void SendToOwners();
  void Send(Target* target);
  // Waits until a put has ended, and gives up those at nodes that have died or left the cluster.
  void Wait();
  void End(Target* target, absl::StatusOr<PutResult> end);
  // Ends the target without blaming its node: it is not sent, or given up.
  static void Refuse(Target* target, absl::Status why);
  bool under_way() const {
    return absl::c_any_of(targets_, [](const auto& target) { return target->under_way(); });
  }
  // The number of owners that hold the encoding durably: with this etag or, if `others`, with any.
  int Copies(bool others) const;
  bool Enough() const { return Copies(/*others=*/true) >= acknowledged(); }
  // Whether a healthy owner was put off only because it has too many puts: the caller then waits too, so that callers
  // are no faster than the slowest healthy owner.
  bool WaitsForTurn() const {
    return absl::c_any_of(targets_, [](const auto& target) { return target->put_off && !target->node->PutsStuck(); });
  }
  // Whether an owner still takes bytes of the caller's slabs.
  bool Taken() const;
  // Whether the view now has another placement, and thus possibly other owners.
  bool LookAgain();
  absl::StatusOr<PutResult> Answer() const;
  absl::Status Failure() const;

  Puts* const puts_;
  const Cluster* const cluster_;
  const absl::string_view ns_;
  const Manifest& manifest_;
  const absl::Span<const absl::Span<const std::byte>> slabs_;
  const absl::Time deadline_;
  std::shared_ptr<Body> body_;  // null: the caller's slabs are used
  std::shared_ptr<const Nodes> nodes_;
  const std::shared_ptr<client::Arrivals> arrivals_ = std::make_shared<client::Arrivals>();
  std::vector<std::unique_ptr<Target>> targets_;
  absl::Time enough_ = absl::InfiniteFuture();  // when enough copies were durable
  int looks_ = 1;
};

absl::StatusOr<PutResult> Puts::Call::Run() {
  nodes_ = cluster_->nodes->Now();
  const size_t owners = nodes_->view->placement.NextOwners(manifest_.identity).size();
  if (static_cast<int>(owners) < acknowledged()) {
    return absl::UnavailableError(absl::StrCat("put: ", acknowledged(), " copies must be durable, but cluster ",
                                               nodes_->view->settings.name, " has ", owners,
                                               " members that accept them; add nodes"));
  }
  if (static_cast<int>(owners) > acknowledged()) body_ = puts_->Copy(manifest_, slabs_);
  SendToOwners();
  while (under_way() && SteadyNow() < deadline_) {
    if (Enough()) {
      enough_ = std::min(enough_, SteadyNow());
      if (!WaitsForTurn() && (body_ != nullptr || !Taken())) break;
    }
    Wait();
    if (!under_way() && !Enough() && LookAgain()) SendToOwners();
  }
  auto answer = Answer();
  std::vector<std::unique_ptr<Target>> rest;
  for (auto& target : targets_) {
    const bool goes_on = target->pending != nullptr && answer.ok() && body_ != nullptr;
    if (!goes_on && !(target->end.has_value() && target->end->ok())) ++cluster_->counters->lacking;
    if (goes_on) {
      rest.push_back(std::move(target));
    } else {
      target->Over(absl::DeadlineExceededError("no acknowledgement before the put ended"));
    }
  }
  if (!rest.empty()) puts_->GoOn(body_, std::move(rest), arrivals_.get(), deadline_);
  return answer;
}

// Owners whose puts are stuck come last, and are left to repair if the others suffice.
void Puts::Call::SendToOwners() {
  std::vector<Target*> stuck;
  for (const uint16_t member : nodes_->view->placement.NextOwners(manifest_.identity)) {
    const std::shared_ptr<ClusterNode>& node = nodes_->nodes[member];
    if (absl::c_any_of(targets_, [&](const auto& target) { return target->node == node; })) continue;
    targets_.push_back(std::make_unique<Target>());
    targets_.back()->node = node;
    if (!nodes_->view->alive(member)) {
      targets_.back()->end = absl::UnavailableError("it is not alive");
    } else if (node->PutsStuck()) {
      stuck.push_back(targets_.back().get());
    } else {
      Send(targets_.back().get());
    }
  }
  for (Target* const target : stuck) {
    const auto others = absl::c_count_if(
        targets_, [](const auto& one) { return one->pending != nullptr || (one->end.has_value() && one->end->ok()); });
    if (others < acknowledged()) {
      Send(target);
    } else {
      target->end = absl::UnavailableError("earlier puts are still waiting for it");
    }
  }
}

void Puts::Call::Send(Target* target) {
  target->again = absl::InfiniteFuture();
  target->end.reset();
  // Each put occupies a thread until the node has answered; one node must not occupy all of them.
  target->put_off = target->node->puts() >= kMaxPutsOfNode;
  if (target->put_off) {
    target->again = SteadyNow() + kTurn;
    return;
  }
  target->probe = target->node->TryProbe(Work::kPut);
  if (target->probe == nullptr && target->node->Rests(Work::kPut)) {
    return Refuse(target, absl::UnavailableError("no recent answer"));
  }
  const auto store = target->node->Store();
  if (!store.ok()) return Refuse(target, store.status());
  const client::Notify notify{arrivals_, reinterpret_cast<uint64_t>(target)};
  auto asked = body_ == nullptr ? (*store)->AskPut(ns_, manifest_, slabs_, deadline_, notify)
                                : (*store)->AskPut(ns_, body_->manifest, body_->spans, deadline_, notify);
  if (!asked.ok()) return Refuse(target, asked.status());
  target->pending = *std::move(asked);
  target->node->PutBegan();
}

void Puts::Call::Refuse(Target* target, absl::Status why) {
  target->GiveUp();
  target->end = std::move(why);
}

void Puts::Call::Wait() {
  absl::Time until = std::min(deadline_, SteadyNow() + kNoProgress);
  for (const auto& target : targets_) until = std::min(until, target->again);
  const auto tag = arrivals_->Next(until);
  const std::shared_ptr<const Nodes> now = cluster_->nodes->Now();
  for (auto& target : targets_) {
    if (SteadyNow() >= target->again) Send(target.get());
    if (target->pending == nullptr) continue;
    if (tag.has_value() && reinterpret_cast<uint64_t>(target.get()) == *tag) {
      auto end = target->pending->Wait(absl::InfinitePast());
      if (!absl::IsDeadlineExceeded(end.status()) || SteadyNow() >= deadline_) End(target.get(), std::move(end));
      continue;
    }
    const auto member = absl::c_find(now->nodes, target->node);
    const bool alive =
        member != now->nodes.end() && now->view->alive(static_cast<uint16_t>(member - now->nodes.begin()));
    if (!alive) Refuse(target.get(), absl::UnavailableError("it died or left the cluster"));
  }
}

void Puts::Call::End(Target* target, absl::StatusOr<PutResult> end) {
  target->Over(end.status());
  const std::optional<uint64_t> epoch = MovedEpoch(end.status());
  if (epoch.has_value() && *epoch < nodes_->view->placement.epoch() && target->behind++ < kMaxBehind) {
    target->again = SteadyNow() + kBehind;
  }
  target->end = std::move(end);
}

int Puts::Call::Copies(bool others) const {
  return static_cast<int>(absl::c_count_if(targets_, [others](const auto& target) {
    return target->end.has_value() && target->end->ok() &&
           (others || (*target->end)->outcome != PutOutcome::kOtherThere);
  }));
}

bool Puts::Call::Taken() const {
  const absl::Time now = SteadyNow();
  return now < enough_ + kRest && absl::c_any_of(targets_, [now](const auto& target) {
           return target->pending != nullptr && now < target->node->PutsMoved() + kNoPutSign;
         });
}

bool Puts::Call::LookAgain() {
  if (looks_ >= kMaxLooks) return false;
  ++looks_;
  const bool moved = absl::c_any_of(targets_, [](const auto& target) { return target->moved(); });
  auto now = moved ? cluster_->nodes->After(nodes_, std::min(deadline_, SteadyNow() + absl::Seconds(1)))
                   : cluster_->nodes->Now();
  if (moved) ++cluster_->counters->moved;
  if (now->view->placement.epoch() == nodes_->view->placement.epoch()) return false;
  nodes_ = std::move(now);
  return true;
}

absl::StatusOr<PutResult> Puts::Call::Answer() const {
  if (!Enough()) return Failure();
  // The greatest etag prevails: owners with another are repaired.
  PutResult answer{PutOutcome::kThere, {}};
  for (const auto& target : targets_) {
    if (!target->end.has_value() || !target->end->ok()) continue;
    const PutResult& result = **target->end;
    answer.etag = std::max(answer.etag, result.etag);
    if (result.outcome == PutOutcome::kWritten) answer.outcome = PutOutcome::kWritten;
  }
  if (answer.etag != manifest_.etag) answer.outcome = PutOutcome::kOtherThere;
  return answer;
}

absl::Status Puts::Call::Failure() const {
  std::vector<std::string> why;
  absl::StatusCode code = absl::StatusCode::kUnavailable;
  bool first = true;
  for (const auto& target : targets_) {
    if (target->end.has_value() && target->end->ok()) continue;
    const absl::Status status =
        target->end.has_value() ? target->end->status() : absl::DeadlineExceededError("no acknowledgement in time");
    const bool ours =
        absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status) || absl::IsUnauthenticated(status);
    if (ours) return Annotate(status, absl::StrCat("put: the node at ", target->node->address()));
    // If the reasons differ, the code is UNAVAILABLE.
    const bool own = absl::IsResourceExhausted(status) || absl::IsDeadlineExceeded(status);
    code = own && (first || code == status.code()) ? status.code() : absl::StatusCode::kUnavailable;
    first = false;
    why.push_back(absl::StrCat(target->node->address(), ": ", status.message()));
  }
  return absl::Status(code, absl::StrCat("put: ", Copies(true), " of ", acknowledged(), " copies are durable; ",
                                         absl::StrJoin(why, "; ")));
}

std::shared_ptr<Puts::Body> Puts::Copy(const Manifest& manifest, absl::Span<const absl::Span<const std::byte>> slabs) {
  const int64_t bytes = manifest.bytes();
  if (rest_bytes_.fetch_add(bytes) + bytes > max_rest_bytes_) {
    rest_bytes_ -= bytes;
    return nullptr;
  }
  cluster_->counters->copied_bytes += bytes;
  return std::make_shared<Body>(manifest, slabs, &rest_bytes_);
}

Puts::Puts(const Cluster* cluster, int64_t max_rest_bytes) : cluster_(cluster), max_rest_bytes_(max_rest_bytes) {}

Puts::~Puts() {
  Thread follower;
  {
    MutexLock lock(&mutex_);
    closing_ = true;
    follower = std::move(follower_);
  }
  ends_->Add(0);
  follower.Join();
}

void Puts::GoOn(const std::shared_ptr<Body>& body, std::vector<std::unique_ptr<Target>> targets,
                client::Arrivals* arrivals, absl::Time deadline) {
  const absl::Time limit = std::min(deadline, SteadyNow() + kRest);
  {
    MutexLock lock(&mutex_);
    for (auto& target : targets) rest_.push_back({body, std::move(target), limit});
    if (!follower_.joinable()) follower_ = Thread("put-rest", [this] { Follow(); });
  }
  arrivals->ForwardTo(ends_);
  ends_->Add(0);  // wakes the follower, since a limit may be earlier now
}

void Puts::Follow() {
  for (;;) {
    absl::Time until = absl::InfiniteFuture();
    {
      MutexLock lock(&mutex_);
      if (closing_ && rest_.empty()) return;
      for (const Rest& rest : rest_) until = std::min(until, rest.limit);
    }
    for (Rest& rest : TakeEnded(ends_->Next(until))) {
      const auto end = rest.target->pending->Wait(absl::InfinitePast());
      // The tag was of an earlier target at the same address, so this put has not ended.
      if (absl::IsDeadlineExceeded(end.status()) && SteadyNow() < rest.limit) {
        MutexLock lock(&mutex_);
        rest_.push_back(std::move(rest));
        continue;
      }
      if (!end.ok()) ++cluster_->counters->lacking;
      rest.target->Over(end.status());
    }
  }
}

std::vector<Puts::Rest> Puts::TakeEnded(std::optional<uint64_t> tag) {
  std::vector<Rest> ended;
  MutexLock lock(&mutex_);
  for (auto it = rest_.begin(); it != rest_.end();) {
    const bool named = tag.has_value() && reinterpret_cast<uint64_t>(it->target.get()) == *tag;
    if (named || SteadyNow() >= it->limit) {
      ended.push_back(std::move(*it));
      it = rest_.erase(it);
    } else {
      ++it;
    }
  }
  return ended;
}

absl::StatusOr<PutResult> Puts::Put(absl::string_view ns, const Manifest& manifest,
                                    absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  KVLINK_RETURN_IF_ERROR(Annotate(manifest.Validate(), "put"));
  if (slabs.size() != manifest.layers.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("put: ", slabs.size(), " slabs for ", manifest.layers.size(), " layers"));
  }
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("put: the deadline has passed");
  ++cluster_->counters->puts;
  auto result = Call(this, ns, manifest, slabs, deadline).Run();
  if (!result.ok()) ++cluster_->counters->failed_puts;
  return result;
}

}  // namespace kvlink::store::cluster
