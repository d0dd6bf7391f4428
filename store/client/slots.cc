#include "store/client/slots.h"

#include <algorithm>
#include <tuple>

#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::client {

absl::StatusOr<std::vector<SlotDigest>> AskSlotDigests(NodeConnection* connection, absl::Span<const uint16_t> slots,
                                                       absl::Time deadline) {
  std::vector<SlotDigest> digests;
  digests.reserve(slots.size());
  for (size_t begin = 0; begin < slots.size(); begin += kMaxSlotsAsked) {
    const absl::Span<const uint16_t> some = slots.subspan(begin, kMaxSlotsAsked);
    proto::Request request = connection->NewRequest("", deadline);
    request.mutable_slot_digests()->set_slots(PackSlots(some));
    KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, connection->Call(request, deadline));
    const std::string& records = answer.slot_digests_found().records();
    if (records.size() != some.size() * kSlotDigestBytes) {
      return absl::UnavailableError("the node answered with digests of another number of slots");
    }
    for (size_t i = 0; i < some.size(); ++i) digests.push_back(SlotDigestAt(records, static_cast<int64_t>(i)));
  }
  return digests;
}

absl::StatusOr<SlotListing> AskSlot(NodeConnection* connection, int slot, const std::optional<SlotEntry>& after,
                                    absl::Time deadline) {
  proto::Request request = connection->NewRequest("", deadline);
  proto::SlotList* const list = request.mutable_slot_list();
  list->set_slot(static_cast<uint32_t>(slot));
  if (after.has_value()) {
    list->set_after_ns(after->ns);
    list->set_after_identity(std::string(BytesOf(after->identity)));
    list->set_after_codec(static_cast<uint32_t>(after->codec));
  }
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, connection->Call(request, deadline));
  if (!answer.has_slot_listed()) return absl::UnavailableError("the node answered a listing with something else");
  SlotListing listing;
  listing.more = answer.slot_listed().more();
  listing.dropped = FromProto(answer.slot_listed().dropped());
  // The entries must ascend and follow `after`, so that listing terminates.
  const SlotEntry* last = after.has_value() ? &*after : nullptr;
  listing.encodings.reserve(static_cast<size_t>(answer.slot_listed().encodings_size()));
  for (const proto::SlotListed::Encoding& encoding : answer.slot_listed().encodings()) {
    SlotEntry entry = FromProto(encoding);
    const bool behind = last == nullptr || std::tie(entry.ns, entry.identity, entry.codec) >
                                               std::tie(last->ns, last->identity, last->codec);
    if (!behind || SlotOf(entry.identity) != slot) {
      return absl::UnavailableError("the node lists a slot out of order, or what is not in it");
    }
    listing.encodings.push_back(std::move(entry));
    last = &listing.encodings.back();
  }
  return listing;
}

}  // namespace kvlink::store::client
