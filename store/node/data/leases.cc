#include "store/node/data/leases.h"

#include <atomic>
#include <set>
#include <string>
#include <utility>

#include "base/status.h"
#include "store/node/data/context.h"
#include "store/node/data/pulls.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

// Tells a client which layers of its lease have arrived, until all have.
class ReadyNews : public std::enable_shared_from_this<ReadyNews> {
 public:
  ReadyNews(std::shared_ptr<ClientConnection> connection, uint64_t number,
            const std::shared_ptr<engine::EncodingLease>& lease)
      : connection_(std::move(connection)), number_(number), lease_(lease) {}

  // Layers [0, first) have been reported.
  void Begin(int64_t first) { Wait(first); }

 private:
  // Stops if the lease has ended; does not keep it alive.
  void Wait(int64_t layer) {
    while (true) {
      const auto lease = lease_.lock();
      if (lease == nullptr) return;
      if (layer >= static_cast<int64_t>(lease->manifest().layers.size())) {
        // The client checks the generation after each use of the bytes, so it no longer needs a firm lease.
        return lease->MakeRevocable();
      }
      // 0: waiting; 1: called within OnLayerRead; 2: OnLayerRead has returned first.
      const auto state = std::make_shared<std::atomic<int>>(0);
      lease->OnLayerRead(layer, [self = shared_from_this(), layer, state](const absl::Status& status) {
        self->Tell(layer, status);
        if (status.ok() && state->exchange(1) == 2) self->Wait(layer + 1);
      });
      if (state->exchange(2) != 1) return;
      ++layer;
    }
  }

  void Tell(int64_t layer, const absl::Status& status) {
    proto::Answer news;
    if (!status.ok()) {
      news.set_code(static_cast<uint32_t>(status.code()));
      news.set_message(std::string(status.message()));
    }
    news.mutable_layers_ready()->set_lease(number_);
    news.mutable_layers_ready()->set_ready(static_cast<uint32_t>(layer + (status.ok() ? 1 : 0)));
    connection_->Send(news);
  }

  const std::shared_ptr<ClientConnection> connection_;
  const uint64_t number_;
  const std::weak_ptr<engine::EncodingLease> lease_;
};

// The number of leading layers that have arrived. Does not wait.
int64_t LayersReadNow(engine::EncodingLease* lease) {
  const int64_t layers = static_cast<int64_t>(lease->manifest().layers.size());
  int64_t arrived = 0;
  while (arrived < layers) {
    const auto there = std::make_shared<std::atomic<bool>>(false);
    lease->OnLayerRead(arrived, [there](const absl::Status& status) { there->store(status.ok()); });
    if (!there->load()) break;
    ++arrived;
  }
  return arrived;
}

absl::Status Take(const std::shared_ptr<Call>& call) {
  DataContext* const context = call->context();
  const std::shared_ptr<ClientConnection>& connection = call->connection();
  if (!connection->channel()->carries_descriptors()) {
    return absl::FailedPreconditionError("leases are given to local connections only: pull instead");
  }
  const proto::EncodingName& name = call->request().lease().name();
  const engine::EncodingKey key = call->KeyOf(name.identity(), name.codec());
  auto taken = context->core->engine->Read(key, ToEtag(name.etag()), call->deadline());
  if (!taken.ok()) return call->UnlessMoved(key.identity, taken.status());
  const std::shared_ptr<engine::EncodingLease> lease = *std::move(taken);
  const Manifest& manifest = lease->manifest();
  proto::Leased leased;
  std::set<uint32_t> memories;
  for (int64_t layer = 0; layer < static_cast<int64_t>(manifest.layers.size()); ++layer) {
    const engine::Place place = manifest.layers[layer].length > 0 ? lease->place(layer) : engine::Place();
    leased.add_memories(place.memory);
    leased.add_offsets(static_cast<uint64_t>(place.offset));
    if (place.memory != 0) memories.insert(place.memory);
  }
  for (const uint32_t number : memories) {
    const auto memory = context->memory.Find(number);  // present, since the lease holds bytes in it
    if (!memory.has_value() || memory->descriptor < 0 || memory->ns != call->ns()) {
      return absl::FailedPreconditionError("the node does not share its memory: pull instead");
    }
    KVLINK_RETURN_IF_ERROR(connection->SendMemory(*memory));
  }
  const int64_t arrived = LayersReadNow(lease.get());
  const Tier tier = lease->from_dram() ? Tier::kDram : Tier::kDisk;
  KVLINK_ASSIGN_OR_RETURN(const uint64_t number, connection->AddLease(lease));
  leased.set_lease(number);
  leased.set_generation_slot(lease->generation_slot());
  leased.set_generation(lease->generation());
  leased.set_residency(lease->residency());
  leased.set_ready(static_cast<uint32_t>(arrived));
  leased.set_tier(static_cast<uint32_t>(tier));
  const absl::Status sent = SendManifest(manifest, *call, [&](absl::string_view piece, bool more, bool first) {
    proto::Answer answer;
    if (first) *answer.mutable_leased() = leased;
    answer.mutable_leased()->set_lease(number);
    answer.mutable_leased()->set_manifest(piece.data(), piece.size());
    answer.mutable_leased()->set_more(more);
    return answer;
  });
  if (!sent.ok()) {
    connection->RemoveLease(number);
    return sent;
  }
  call->Answered();
  std::make_shared<ReadyNews>(connection, number, lease)->Begin(arrived);
  return absl::OkStatus();
}

}  // namespace

absl::Status ShareMemory(ClientConnection* connection) {
  DataContext* const context = connection->context();
  if (context->core->engine->generations_descriptor() < 0) {
    return absl::UnimplementedError("the node does not share its memory");
  }
  engine::TierMemory generations;
  generations.number = kGenerationsMemory;
  generations.bytes = context->core->engine->generations_bytes();
  generations.descriptor = context->core->engine->generations_descriptor();
  return connection->SendMemory(generations);
}

void TakeLease(std::shared_ptr<Call> call) {
  const absl::Status status = Take(call);
  if (!status.ok()) call->Refuse(status);
}

void ReleaseLeases(std::shared_ptr<Call> call) {
  proto::Answer answer;
  answer.mutable_released();
  call->Answer(std::move(answer));
}

}  // namespace kvlink::store::node
