// A part is read from the peer while the disk writes the previous one: each layer goes to the engine, which verifies it
// again, as soon as it is whole.
#include "store/cluster/repair/copier.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

// How long a copy waits for this node to carry out the drops that its source has.
constexpr absl::Duration kWaitForDrops = absl::Seconds(5);
// How much earlier than asked a wait may end.
constexpr absl::Duration kClockSlack = absl::Milliseconds(1);
// The smallest part.
constexpr client::EncodingPart kFirstHead = {.layers = 1, .heads = 1};
// How soon a part is asked for again when the receive memory is full, which other copies will release, or when the peer
// is busy.
constexpr absl::Duration kRetryWithoutMemory = absl::Milliseconds(20);

bool IsGone(const absl::Status& status) { return absl::IsNotFound(status) || MovedEpoch(status).has_value(); }

// Makes the function that decides, at commit, whether a copy may be stored. It owns its state, since a put may commit
// after its deadline.
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

// Returns once the drops up to `position` are carried out, or in vain: this node may be the only one that cannot reach
// the database.
void AwaitDrops(const RepairContext& context, const DropPosition& position) {
  const absl::Time until = SteadyNow() + kWaitForDrops;
  for (absl::Time now = SteadyNow(); now < until && !context.stopping.begun(); now = SteadyNow()) {
    if (context.drops->WaitFor(position, std::min(until, now + kStopLook))) return;
  }
}

// CANCELLED: the repairer is stopping. Errors of PartLease::WaitLayer.
absl::Status AwaitLayer(const RepairContext& context, client::PartLease* lease, int64_t layer, absl::Time deadline) {
  for (;;) {
    const absl::Time until = std::min(deadline, SteadyNow() + kStopLook);
    const absl::Status waited = lease->WaitLayer(layer, until);
    const bool looks = until < deadline && SteadyNow() + kClockSlack >= until;  // else the read's own deadline passed
    if (!absl::IsDeadlineExceeded(waited) || !looks) return waited;
    if (context.stopping.begun()) return absl::CancelledError("repair is stopping");
  }
}

// The parts in order. The first is the first head of the first layer, which is read for its manifest. The others have
// up to `max_bytes`: whole layers together, or some heads of the first layer, or of one that is larger.
std::vector<CopyPart> PartsOf(const Manifest& manifest, int64_t max_bytes) {
  std::vector<CopyPart> parts = {{kFirstHead}};
  bool open = false;  // the last one may take another layer
  for (int64_t layer = 0; layer < static_cast<int64_t>(manifest.layers.size()); ++layer) {
    const int64_t length = manifest.layers[layer].length;
    const bool begun = layer == 0 && length > 0;
    if (begun || length > max_bytes) {
      const SlabShape shape = manifest.shape(layer);
      if (begun) parts.front().bytes = shape.head_bytes();
      const int64_t together = std::max<int64_t>(1, max_bytes / shape.head_bytes());
      for (int64_t head = begun ? 1 : 0; head < shape.kv_heads; head += together) {
        const int64_t heads = std::min(together, shape.kv_heads - head);
        parts.push_back(
            {{.first_layer = layer, .layers = 1, .first_head = head, .heads = heads}, heads * shape.head_bytes()});
      }
      open = false;
      continue;
    }
    if (!open || parts.back().bytes + length > max_bytes) parts.push_back({{.first_layer = layer}});
    open = true;
    ++parts.back().what.layers;
    parts.back().bytes += length;
  }
  return parts;
}

// DEADLINE_EXCEEDED: the put may still become durable.
absl::StatusOr<engine::Engine::PutOutcome> CommitAndWait(engine::Engine* engine,
                                                         std::unique_ptr<engine::StreamingPut> push,
                                                         std::function<absl::Status()> admission,
                                                         absl::Duration timeout) {
  struct Waiting {
    Mutex mutex;
    CondVar changed;
    std::optional<absl::StatusOr<engine::Engine::PutOutcome>> outcome ABSL_GUARDED_BY(mutex);
  };
  const auto waiting = std::make_shared<Waiting>();
  engine->CommitPush(
      std::move(push),
      [waiting](absl::StatusOr<engine::Engine::PutOutcome> outcome) {
        MutexLock lock(&waiting->mutex);
        waiting->outcome = std::move(outcome);
        waiting->changed.Signal();
      },
      std::move(admission));
  const absl::Time deadline = SteadyNow() + timeout;
  MutexLock lock(&waiting->mutex);
  while (!waiting->outcome.has_value()) {
    if (!waiting->changed.WaitUntil(&waiting->mutex, deadline) && !waiting->outcome.has_value()) {
      return absl::DeadlineExceededError("the copy was not written to disk in time");
    }
  }
  return *std::move(waiting->outcome);
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
  // Try the least loaded source first. Other copies change the loads while this one sorts.
  auto& sources = copy->sources;
  std::map<NodeId, std::pair<int64_t, int64_t>> loads;
  for (const CopySource& source : sources) loads[source.node] = context.peers.Load(source.node);
  std::sort(sources.begin(), sources.end(),
            [&loads](const CopySource& a, const CopySource& b) { return loads[a.node] < loads[b.node]; });
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

// Handles an error of a read: kGone, or the error again after counting it and, if the peer is at fault, letting it
// rest.
absl::StatusOr<Copy::Outcome> Copier::Failed(const CopySource& source, const absl::Status& why) {
  if (IsGone(why)) return Copy::Outcome::kGone;
  if (absl::IsCancelled(why)) return why;
  // DATA_LOSS concerns one encoding and RESOURCE_EXHAUSTED this node's memory; other errors are the peer's.
  if (!absl::IsDataLoss(why) && !absl::IsResourceExhausted(why)) {
    context_->peers.Failed(source.node, source.address, why);
  }
  context_->ledger.Count([](RepairStatistics* counts) { ++counts->peer_errors; });
  return why;
}

absl::StatusOr<Copy::Outcome> Copier::From(const CopySource& source, const Copy& copy) {
  KVLINK_ASSIGN_OR_RETURN(const auto peer, context_->peers.Get(source.node, source.address));
  const auto admission = Admission(context_->drops, copy.entry, source.dropped);
  if (admission) {
    // A peer may be one poll of the log ahead. Nothing is read that could not be stored.
    AwaitDrops(*context_, source.dropped);
    const absl::Status admitted = admission();
    if (absl::IsAborted(admitted)) return Copy::Outcome::kDropped;
    KVLINK_RETURN_IF_ERROR(admitted);
  }
  // The first part brings the manifest, which says what the others are.
  const bool whole = copy.entry.bytes <= context_->options.part_bytes;
  auto first = Read(peer.get(), copy, whole ? CopyPart{.bytes = copy.entry.bytes} : CopyPart{kFirstHead});
  if (!first.ok()) return Failed(source, first.status());
  const Manifest manifest = (*first)->manifest();
  if (manifest.bytes() != copy.entry.bytes) return Failed(source, absl::InternalError("it listed another size"));
  std::vector<CopyPart> parts;
  if (whole) {
    parts = {{{.layers = static_cast<int64_t>(manifest.layers.size())}}};
  } else {
    parts = PartsOf(manifest, context_->options.part_bytes);
    (void)context_->rate.Take(parts.front().bytes, SteadyNow());  // not known before
  }
  std::vector<int64_t> lengths;
  for (const auto& layer : manifest.layers) lengths.push_back(layer.length);
  const engine::EncodingKey key{copy.entry.ns, copy.entry.identity, copy.entry.codec};
  auto push = context_->engine->BeginPush(key, lengths, engine::PutMode::kReplaceSmallerEtag);
  if (absl::IsInvalidArgument(push.status())) return Copy::Outcome::kNoRoom;  // it fits in no case
  if (!push.ok()) return Copy::Outcome::kFailed;
  const absl::Status accepted = (*push)->Accept(manifest);
  if (absl::IsResourceExhausted(accepted) || absl::IsInvalidArgument(accepted)) return Copy::Outcome::kNoRoom;
  if (!accepted.ok()) return Copy::Outcome::kFailed;
  for (const CopyPart& part : parts) {
    auto lease = *first != nullptr ? std::move(first) : Read(peer.get(), copy, part);
    const absl::StatusOr<bool> filled =
        lease.ok() ? Fill(manifest, part, lease->get(), push->get()) : absl::StatusOr<bool>(lease.status());
    if (!filled.ok()) return Failed(source, filled.status());
    if (!*filled) return Copy::Outcome::kFailed;
  }
  context_->peers.Worked(source.node);
  return Commit(copy, *std::move(push), admission);
}

absl::StatusOr<std::unique_ptr<client::PartLease>> Copier::Read(RepairPeer* peer, const Copy& copy,
                                                                const CopyPart& part) {
  if (!context_->stopping.WaitUntil(context_->rate.Take(part.bytes, SteadyNow()))) {
    return absl::CancelledError("repair is stopping");
  }
  const absl::Time deadline = SteadyNow() + context_->options.copy_timeout;
  while (true) {
    auto lease = peer->ReadPart(copy.entry, part.what, deadline);
    const absl::Time again = SteadyNow() + kRetryWithoutMemory;
    if (!absl::IsResourceExhausted(lease.status()) || again > deadline) return lease;
    if (!context_->stopping.WaitUntil(again)) return absl::CancelledError("repair is stopping");
  }
}

absl::StatusOr<bool> Copier::Fill(const Manifest& manifest, const CopyPart& part, client::PartLease* lease,
                                  engine::StreamingPut* push) {
  const absl::Time deadline = SteadyNow() + context_->options.copy_timeout;
  for (int64_t layer = part.what.first_layer; layer < part.what.first_layer + part.what.layers; ++layer) {
    if (manifest.layers[layer].length == 0) continue;
    KVLINK_RETURN_IF_ERROR(AwaitLayer(*context_, lease, layer, deadline));
    if (!push->Reserve(layer).ok()) return false;
    const SlabShape shape = manifest.shape(layer);
    const int64_t heads = part.what.heads == 0 ? shape.kv_heads : part.what.heads;
    for (int64_t head = part.what.first_head; head < part.what.first_head + heads; ++head) {
      const absl::Span<const std::byte> bytes = lease->head(layer, head);
      std::memcpy(push->slab(layer).data() + shape.head_offset(head), bytes.data(), bytes.size());
    }
    if (part.what.first_head + heads == shape.kv_heads && !push->WriteLayer(layer).ok()) return false;
  }
  return true;
}

Copy::Outcome Copier::Commit(const Copy& copy, std::unique_ptr<engine::StreamingPut> push,
                             std::function<absl::Status()> admission) {
  const auto outcome =
      CommitAndWait(context_->engine, std::move(push), std::move(admission), context_->options.copy_timeout);
  if (absl::IsAborted(outcome.status())) return Copy::Outcome::kDropped;
  if (absl::IsResourceExhausted(outcome.status()) || absl::IsInvalidArgument(outcome.status())) {
    return Copy::Outcome::kNoRoom;
  }
  if (!outcome.ok()) return Copy::Outcome::kFailed;
  if (!outcome->written) return Copy::Outcome::kThere;
  // Make the copy as hot here as at the source; otherwise an encoding that was worth evicting others for would be
  // evicted next.
  const int uses = copy.entry.heat > 3 ? 2 : copy.entry.heat;
  const engine::EncodingKey key{copy.entry.ns, copy.entry.identity, copy.entry.codec};
  for (int i = 0; i < uses; ++i) context_->engine->Touch(key).IgnoreError();
  return Copy::Outcome::kCopied;
}

}  // namespace kvlink::store::cluster
