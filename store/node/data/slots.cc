// One answer is one message: a client lists the rest of a slot with another request, after the last encoding received.
#include "store/node/data/slots.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "store/node/data/context.h"

namespace kvlink::store::node {
namespace {

// Whether the comparing node uses a placement this node has not heard of. This node would then still accept pushes
// after the comparison that the comparison must include.
bool IsBehind(Call* call) { return call->epoch() != 0 && call->epoch() < call->request().placement(); }

}  // namespace

void GiveSlotDigests(std::shared_ptr<Call> call) {
  if (IsBehind(call.get())) return call->Refuse(MovedStatus(call->epoch()));
  const std::vector<uint16_t> slots = UnpackSlots(call->request().slot_digests().slots());
  proto::Answer answer;
  std::string* const records = answer.mutable_slot_digests_found()->mutable_records();
  for (const SlotDigest& digest : call->context()->core->engine->SlotDigests(slots)) AppendSlotDigest(digest, records);
  call->Answer(std::move(answer));
}

void ListSlot(std::shared_ptr<Call> call) {
  if (IsBehind(call.get())) return call->Refuse(MovedStatus(call->epoch()));
  const proto::SlotList& list = call->request().slot_list();
  engine::Engine* const engine = call->context()->core->engine.get();
  std::optional<engine::EncodingKey> after;
  if (!list.after_identity().empty()) {
    after = {list.after_ns(), ToIdentity(list.after_identity()), static_cast<Codec>(list.after_codec())};
  }
  proto::Answer answer;
  proto::SlotListed* const listed = answer.mutable_slot_listed();
  // Taken before the listing, which therefore reflects every drop up to it.
  ToProto(engine->dropped(), listed->mutable_dropped());
  int64_t bytes = 0;
  for (const SlotEntry& entry : engine->ListSlot(static_cast<int>(list.slot()), after, kMaxSlotEntries + 1)) {
    if (bytes >= kSlotListPiece || listed->encodings_size() == kMaxSlotEntries) {
      listed->set_more(true);
      break;
    }
    ToProto(entry, listed->add_encodings());
    bytes += static_cast<int64_t>(listed->encodings().rbegin()->ByteSizeLong()) + 4;  // with tag and length
  }
  call->Answer(std::move(answer));
}

}  // namespace kvlink::store::node
