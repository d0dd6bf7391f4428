#include "store/cluster/repair/copier.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

// How long a copy waits for this node to have carried out as many drops as its source.
constexpr absl::Duration kWaitForDrops = absl::Seconds(5);

bool IsGone(const absl::Status& status) { return absl::IsNotFound(status) || MovedEpoch(status).has_value(); }

// Whether a copy may be stored, asked when it commits. Holds what it needs: a put may commit after its deadline.
std::function<absl::Status()> Admission(std::shared_ptr<const DropMemory> drops, const SlotEntry& entry,
                                        const DropPosition& peer) {
  if (drops == nullptr) return nullptr;
  return [drops = std::move(drops), ns = entry.ns, identity = entry.identity, peer] {
    switch (drops->Ask(ns, identity, peer)) {
      case DropMemory::Verdict::kAllowed:
        return absl::OkStatus();
      case DropMemory::Verdict::kDropped:
        return absl::AbortedError("its identity was dropped");
      default:
        return absl::UnavailableError("the nodes have carried out different drops");
    }
  };
}

}  // namespace

Copier::Copier(RepairContext* context, int threads)
    : context_(context),
      worker_(Worker::Options{
          .name = "repair-copy", .threads = std::clamp(threads, 1, 64), .max_queued = 4096, .nice = 10}) {}

void Copier::Run(std::vector<Copy>* copies) {
  struct Waiting {
    Mutex mutex;
    CondVar changed;
    size_t left ABSL_GUARDED_BY(mutex) = 0;
  } waiting;
  {
    MutexLock lock(&waiting.mutex);
    waiting.left = copies->size();
  }
  const auto ended = [&waiting] {
    MutexLock lock(&waiting.mutex);
    if (--waiting.left == 0) waiting.changed.Signal();
  };
  for (Copy& copy : *copies) {
    const absl::Status added = worker_.AddAdmitted({.work = [this, &copy, &ended](const absl::Status& turn) {
      if (turn.ok()) One(&copy);
      ended();
    }});
    if (!added.ok()) ended();
  }
  MutexLock lock(&waiting.mutex);
  while (waiting.left > 0) waiting.changed.Wait(&waiting.mutex);
}

void Copier::One(Copy* copy) {
  RepairContext& context = *context_;
  if (!context.stopping.WaitUntil(context.rate.Take(copy->entry.bytes, SteadyNow()))) return;
  // The one of which the least is asked first.
  auto& sources = copy->sources;
  std::sort(sources.begin(), sources.end(), [&context](const CopySource& a, const CopySource& b) {
    return context.peers.Load(a.node) < context.peers.Load(b.node);
  });
  bool all_gone = true;
  for (const CopySource& source : sources) {
    if (context.stopping.begun()) return;
    context.peers.Began(source.node, copy->entry.bytes);
    const auto outcome = From(source, *copy);
    context.peers.Ended(source.node, copy->entry.bytes);
    if (outcome.ok()) {
      copy->outcome = *outcome;
      if (*outcome == Copy::Outcome::kGone) continue;
      if (*outcome == Copy::Outcome::kCopied) context.ledger.Copied(copy->slot, copy->entry.bytes);
      return;
    }
    all_gone = false;
  }
  if (!all_gone) copy->outcome = Copy::Outcome::kFailed;
}

absl::StatusOr<Copy::Outcome> Copier::From(const CopySource& source, const Copy& copy) {
  const absl::Time deadline = SteadyNow() + context_->options.copy_timeout;
  KVLINK_ASSIGN_OR_RETURN(const auto peer, context_->peers.Get(source.node, source.address));
  absl::Status arrived;
  auto lease = peer->Read(copy.entry, deadline);
  if (lease.ok()) {
    const int64_t layers = static_cast<int64_t>((*lease)->manifest().layers.size());
    for (int64_t layer = 0; layer < layers && arrived.ok(); ++layer) arrived = (*lease)->WaitLayer(layer, deadline);
  } else {
    arrived = lease.status();
  }
  if (IsGone(arrived)) return Copy::Outcome::kGone;
  if (!arrived.ok()) {
    // Damage is of one encoding, and full memory of this node; the rest says something about the peer.
    if (!absl::IsDataLoss(arrived) && !absl::IsResourceExhausted(arrived))
      context_->peers.Failed(source.node, source.address, arrived);
    context_->ledger.Count([](RepairStatistics* counts) { ++counts->peer_errors; });
    return arrived;
  }
  context_->peers.Worked(source.node);
  return Put(source, copy, lease->get(), deadline);
}

absl::StatusOr<Copy::Outcome> Copier::Put(const CopySource& source, const Copy& copy, Lease* lease,
                                          absl::Time deadline) {
  const Manifest& manifest = lease->manifest();
  std::vector<absl::Span<const std::byte>> slabs;
  for (size_t layer = 0; layer < manifest.layers.size(); ++layer) {
    slabs.push_back(manifest.layers[layer].length > 0 ? lease->layer(static_cast<int64_t>(layer))
                                                      : absl::Span<const std::byte>());
  }
  // A peer that is a poll of the log ahead is no reason to read it all again.
  if (context_->drops != nullptr) {
    (void)context_->drops->WaitFor(source.dropped, std::min(deadline, SteadyNow() + kWaitForDrops));
  }
  const auto admission = Admission(context_->drops, copy.entry, source.dropped);
  const absl::Status admitted = admission ? admission() : absl::OkStatus();
  if (absl::IsAborted(admitted)) return Copy::Outcome::kDropped;
  KVLINK_RETURN_IF_ERROR(admitted);
  const auto put =
      context_->engine->Put(copy.entry.ns, manifest, slabs, deadline, engine::PutMode::kReplaceSmallerEtag, admission);
  if (absl::IsAborted(put.status())) return Copy::Outcome::kDropped;
  if (absl::IsResourceExhausted(put.status()) || absl::IsInvalidArgument(put.status())) return Copy::Outcome::kNoRoom;
  KVLINK_RETURN_IF_ERROR(put.status());
  if (!put->written) return Copy::Outcome::kThere;
  // As hot here as it was there: or what was worth evicting for would be the next to go.
  const int uses = copy.entry.heat > 3 ? 2 : copy.entry.heat;
  const engine::EncodingKey key{copy.entry.ns, copy.entry.identity, copy.entry.codec};
  for (int i = 0; i < uses; ++i) context_->engine->Touch(key).IgnoreError();
  return Copy::Outcome::kCopied;
}

}  // namespace kvlink::store::cluster
