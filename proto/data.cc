#include "proto/data.h"

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/little_endian.h"
#include "base/slab.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "proto/manifest.h"
#include "proto/wire.h"

namespace kvlink {
namespace {

constexpr uint32_t kRequestMagic = 0x524C564B, kAnswerMagic = 0x414C564B;  // "KVLR", "KVLA"
constexpr char kMovedPayload[] = "kvlink-moved-epoch";
constexpr size_t kTokenBytes = 16, kNodeIdBytes = 16;
constexpr size_t kIdentityBytes = sizeof(Identity::bytes), kEtagBytes = sizeof(Etag::bytes);
constexpr size_t kMaxName = 255;
constexpr uint32_t kMaxTier = 2;
constexpr size_t kLogBytes = 16;
constexpr uint64_t kMaxEncoding = uint64_t{1} << 48;

absl::Status BadMessage(absl::string_view what) { return absl::InvalidArgumentError(what); }

EnvelopeKind KindOf(uint32_t magic) {
  const ProtocolRange spoken = SpokenProtocols();
  return {magic, static_cast<uint8_t>(spoken.max), 0, magic == kRequestMagic ? "request" : "answer",
          static_cast<uint8_t>(spoken.min)};
}

bool KnownCodec(uint32_t codec) { return codec >= 1 && codec <= 4; }

bool Packed(const std::string& identities) {
  return !identities.empty() && identities.size() % kIdentityBytes == 0 &&
         identities.size() / kIdentityBytes <= kMaxIdentities;
}

absl::Status CheckName(const proto::EncodingName& name) {
  if (name.identity().size() != kIdentityBytes || name.etag().size() != kEtagBytes) {
    return BadMessage("an encoding's name has an identity of 32 and an etag of 16 bytes");
  }
  if (!KnownCodec(name.codec())) return BadMessage("unknown codec");
  return absl::OkStatus();
}

absl::Status CheckPull(const proto::Pull& pull) {
  KVLINK_RETURN_IF_ERROR(CheckName(pull.name()));
  if (pull.payloads() < 1 || pull.payloads() > kMaxPieces) return BadMessage("a pull has 1 to 65536 receives");
  const uint64_t last = pull.first_payload() + pull.payloads();
  if (last < pull.first_payload()) return BadMessage("receives of a pull reach beyond 2^64");
  if (pull.part().tokens() < 0) return BadMessage("a part of fewer than 0 tokens");
  return absl::OkStatus();
}

absl::Status CheckPushBegin(const proto::PushBegin& push) {
  if (push.identity().size() != kIdentityBytes) return BadMessage("an identity has 32 bytes");
  if (!KnownCodec(push.codec())) return BadMessage("unknown codec");
  if (push.lengths_size() < 1 || push.lengths_size() > kMaxLayers) return BadMessage("a push has 1 to 1024 layers");
  for (const int64_t length : push.lengths()) {
    if (length < 0 || length > (int64_t{1} << 30) || length % kSlabAlignment != 0) {
      return BadMessage("a slab has 0 to 2^30 bytes, a multiple of 4096");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAction(const proto::EncodingAction& action) {
  if (!proto::EncodingAction::Action_IsValid(action.action()) || action.action() == proto::EncodingAction::NONE)
    return BadMessage("unknown action on encodings");
  if (action.action() != proto::EncodingAction::REMOVE && !KnownCodec(action.codec()))
    return BadMessage("unknown codec");
  if (!Packed(action.identities())) return BadMessage("an action names 1 to 4096 identities of 32 bytes");
  return absl::OkStatus();
}

absl::Status CheckSlotDigests(const proto::SlotDigests& digests) {
  const size_t bytes = digests.slots().size();
  if (bytes % sizeof(uint16_t) != 0 || bytes == 0 || bytes / sizeof(uint16_t) > kMaxSlotsAsked) {
    return BadMessage("digests are asked of 1 to 4096 slots, of 2 bytes each");
  }
  return absl::OkStatus();
}

absl::Status CheckSlotList(const proto::SlotList& list) {
  if (list.slot() >= static_cast<uint32_t>(kSlots)) return BadMessage("there are 65536 slots");
  if (list.after_identity().empty()) {
    return list.after_ns().empty() && list.after_codec() == 0 ? absl::OkStatus()
                                                              : BadMessage("a name without an identity");
  }
  if (list.after_identity().size() != kIdentityBytes) return BadMessage("an identity has 32 bytes");
  if (list.after_ns().size() > kMaxName) return BadMessage("a namespace's name has at most 255 bytes");
  return KnownCodec(list.after_codec()) ? absl::OkStatus() : BadMessage("unknown codec");
}

absl::Status CheckSlotDigestsFound(const proto::SlotDigestsFound& found) {
  const size_t bytes = found.records().size();
  if (bytes % kSlotDigestBytes != 0 || bytes / kSlotDigestBytes > kMaxSlotsAsked) {
    return BadMessage("digests of slots have 32 bytes each and are at most 4096");
  }
  // So that sums over all slots, and differences, do not overflow.
  for (int64_t i = 0; i < static_cast<int64_t>(bytes) / kSlotDigestBytes; ++i) {
    if (SlotDigestAt(found.records(), i).bytes > kMaxSlotBytes) return BadMessage("a slot of more than 2^46 bytes");
  }
  return absl::OkStatus();
}

absl::Status CheckSlotListed(const proto::SlotListed& listed) {
  if (listed.encodings_size() > kMaxSlotEntries) return BadMessage("more than 2048 encodings of a slot");
  if (listed.more() && listed.encodings().empty()) return BadMessage("no encodings, but more to follow");
  for (const proto::SlotListed::Encoding& encoding : listed.encodings()) {
    if (encoding.identity().size() != kIdentityBytes || encoding.etag().size() != kEtagBytes) {
      return BadMessage("an encoding's name has an identity of 32 and an etag of 16 bytes");
    }
    if (!KnownCodec(encoding.codec())) return BadMessage("unknown codec");
    if (encoding.ns().empty() || encoding.ns().size() > kMaxName)
      return BadMessage("a namespace's name has 1 to 255 bytes");
    if (encoding.bytes() > kMaxEncoding) return BadMessage("an encoding of more than 2^48 bytes");
    if (encoding.heat() > static_cast<uint32_t>(kMaxHeat)) return BadMessage("a heat above 7");
  }
  const std::string& log = listed.dropped().log();
  return log.empty() || log.size() == kLogBytes ? absl::OkStatus() : BadMessage("a log's name has 16 bytes");
}

absl::Status CheckBody(const proto::Request& request) {
  switch (request.body_case()) {
    case proto::Request::kHello:
      return request.hello().token().size() == kTokenBytes ? absl::OkStatus()
                                                           : BadMessage("a session's token has 16 bytes");
    case proto::Request::kLookup:
      if (!KnownCodec(request.lookup().codec())) return BadMessage("unknown codec");
      return Packed(request.lookup().identities()) ? absl::OkStatus()
                                                   : BadMessage("a lookup names 1 to 4096 identities of 32 bytes");
    case proto::Request::kPull:
      return CheckPull(request.pull());
    case proto::Request::kPushBegin:
      return CheckPushBegin(request.push_begin());
    case proto::Request::kPushCommit:
      return absl::OkStatus();
    case proto::Request::kAction:
      return CheckAction(request.action());
    case proto::Request::kLease:
      return CheckName(request.lease().name());
    case proto::Request::kRelease:
      return request.release().leases_size() >= 1 && request.release().leases_size() <= kMaxIdentities
                 ? absl::OkStatus()
                 : BadMessage("a release names 1 to 4096 leases");
    case proto::Request::kSlotDigests:
      return CheckSlotDigests(request.slot_digests());
    case proto::Request::kSlotList:
      return CheckSlotList(request.slot_list());
    case proto::Request::kCancel:
    case proto::Request::kRenew:
      return absl::OkStatus();
    case proto::Request::BODY_NOT_SET:
      break;
  }
  return absl::UnimplementedError("no body that this build knows");
}

absl::Status CheckBody(const proto::Answer& answer) {
  switch (answer.body_case()) {
    case proto::Answer::kWelcome:
      return answer.welcome().node_id().size() == kNodeIdBytes ? absl::OkStatus()
                                                               : BadMessage("a node id has 16 bytes");
    case proto::Answer::kFound: {
      const size_t bytes = answer.found().records().size();
      if (bytes % kFoundRecordBytes != 0 || bytes / kFoundRecordBytes > kMaxIdentities) {
        return BadMessage("found records have 40 bytes each and are at most 4096");
      }
      for (size_t i = 0; i < bytes / kFoundRecordBytes; ++i) {
        if (FoundRecordAt(answer.found().records(), i).tier > kMovedTier) return BadMessage("unknown tier");
      }
      return absl::OkStatus();
    }
    case proto::Answer::kPushReady:
      return answer.push_ready().etag().empty() || answer.push_ready().etag().size() == kEtagBytes
                 ? absl::OkStatus()
                 : BadMessage("an etag has 16 bytes");
    case proto::Answer::kPushDone:
      return answer.push_done().etag().size() == kEtagBytes ? absl::OkStatus() : BadMessage("an etag has 16 bytes");
    case proto::Answer::kPullStarted:
      return answer.pull_started().tier() <= kMaxTier ? absl::OkStatus() : BadMessage("unknown tier");
    case proto::Answer::kActionDone:
      return answer.action_done().codes().size() <= kMaxIdentities ? absl::OkStatus() : BadMessage("too many codes");
    case proto::Answer::kLeased:
      if (std::max(answer.leased().offsets_size(), answer.leased().memories_size()) > kMaxLayers)
        return BadMessage("more than 1024 layers");
      return answer.leased().tier() <= kMaxTier ? absl::OkStatus() : BadMessage("unknown tier");
    case proto::Answer::kSharedMemory:
      return answer.shared_memory().ns().size() <= kMaxName ? absl::OkStatus()
                                                            : BadMessage("a name has at most 255 bytes");
    case proto::Answer::kMoved:
      return answer.code() == static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition)
                 ? absl::OkStatus()
                 : BadMessage("a moved encoding must have the code FAILED_PRECONDITION");
    case proto::Answer::kSlotDigestsFound:
      return CheckSlotDigestsFound(answer.slot_digests_found());
    case proto::Answer::kSlotListed:
      return CheckSlotListed(answer.slot_listed());
    case proto::Answer::kPullDone:
    case proto::Answer::kLayersReady:
    case proto::Answer::kReleased:
    case proto::Answer::kRenewed:
      return absl::OkStatus();
    case proto::Answer::BODY_NOT_SET:
      break;
  }
  // An error needs no body.
  if (answer.code() != 0) return absl::OkStatus();
  return absl::UnimplementedError("no body that this build knows");
}

template <typename Message>
std::string Serialize(EnvelopeKind kind, const Message& message, uint32_t protocol) {
  kind.major = static_cast<uint8_t>(protocol);
  return WrapEnvelope(kind, message.SerializeAsString());
}

// Checked before the envelope is opened, because its error messages are worded for files.
absl::Status CheckProtocol(const EnvelopeKind& kind, absl::string_view bytes) {
  const std::optional<uint8_t> protocol = EnvelopeMajor(kind, bytes);
  if (!protocol.has_value()) return absl::OkStatus();
  const ProtocolRange sender{*protocol, *protocol};
  const bool request = kind.magic == kRequestMagic;
  const auto common = request ? CommonProtocol(sender, SpokenProtocols()) : CommonProtocol(SpokenProtocols(), sender);
  return Annotate(common.status(), kind.name);
}

template <typename Message>
absl::StatusOr<Message> Parse(const EnvelopeKind& kind, absl::string_view bytes, uint64_t* id) {
  if (bytes.size() > kMaxDataMessage) {
    return absl::InvalidArgumentError(absl::StrCat(kind.name, ": ", bytes.size(), " bytes, too large"));
  }
  KVLINK_RETURN_IF_ERROR(CheckProtocol(kind, bytes));
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kind, bytes));
  Message message;
  // At most 256 KiB, so packed fields decode to at most 2 MiB.
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::InvalidArgumentError(absl::StrCat(kind.name, ": malformed"));
  }
  if (id != nullptr) *id = message.id();
  KVLINK_RETURN_IF_ERROR(Annotate(CheckBody(message), kind.name));
  return message;
}

// "2", "2 to 3".
std::string Words(ProtocolRange range) {
  return range.min == range.max ? absl::StrCat(range.max) : absl::StrCat(range.min, " to ", range.max);
}

template <typename D>
D ToDigest(absl::string_view bytes) {
  D digest;
  std::memcpy(digest.bytes.data(), bytes.data(), std::min(bytes.size(), digest.bytes.size()));
  return digest;
}

}  // namespace

absl::StatusOr<uint32_t> CommonProtocol(ProtocolRange client, ProtocolRange node) {
  for (ProtocolRange* const range : {&client, &node}) {
    if (range->max == 0) *range = {1, 1};
  }
  const uint32_t common = std::min(client.max, node.max);
  if (common >= std::max(client.min, node.min)) return common;
  return absl::UnimplementedError(absl::StrCat("the client speaks protocol ", Words(client), ", and the node protocol ",
                                               Words(node), ": upgrade the ",
                                               client.max < node.max ? "client" : "node"));
}

absl::Status MovedStatus(uint64_t epoch) {
  absl::Status status = absl::FailedPreconditionError(
      absl::StrCat("moved: this node does not own the encoding at epoch ", epoch, " of the placement; ask an owner"));
  status.SetPayload(kMovedPayload, absl::Cord(absl::StrCat(epoch)));
  return status;
}

std::optional<uint64_t> MovedEpoch(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kMovedPayload);
  uint64_t epoch = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &epoch)) return std::nullopt;
  return epoch;
}

std::string SerializeRequest(const proto::Request& request, uint32_t protocol) {
  return Serialize(KindOf(kRequestMagic), request, protocol);
}
std::string SerializeAnswer(const proto::Answer& answer, uint32_t protocol) {
  return Serialize(KindOf(kAnswerMagic), answer, protocol);
}

absl::StatusOr<proto::Request> ParseRequest(absl::string_view bytes, uint64_t* id, uint32_t* protocol) {
  KVLINK_ASSIGN_OR_RETURN(proto::Request request, Parse<proto::Request>(KindOf(kRequestMagic), bytes, id));
  if (protocol != nullptr) *protocol = *EnvelopeMajor(KindOf(kRequestMagic), bytes);
  if (request.ns().size() > kMaxName) return BadMessage("request: a namespace's name has at most 255 bytes");
  return request;
}

absl::StatusOr<proto::Answer> ParseAnswer(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(proto::Answer answer, Parse<proto::Answer>(KindOf(kAnswerMagic), bytes, nullptr));
  if (answer.code() > static_cast<uint32_t>(absl::StatusCode::kUnauthenticated)) {
    return BadMessage("answer: unknown status code");
  }
  return answer;
}

void SilenceProtobuf() { google::protobuf::SetLogHandler(nullptr); }

std::string PackIdentities(absl::Span<const Identity> identities) {
  std::string packed;
  packed.reserve(identities.size() * kIdentityBytes);
  for (const Identity& identity : identities) packed.append(BytesOf(identity).data(), kIdentityBytes);
  return packed;
}

std::vector<Identity> UnpackIdentities(absl::string_view packed) {
  std::vector<Identity> identities(packed.size() / kIdentityBytes);
  for (size_t i = 0; i < identities.size(); ++i) {
    std::memcpy(identities[i].bytes.data(), packed.data() + i * kIdentityBytes, kIdentityBytes);
  }
  return identities;
}

Identity ToIdentity(absl::string_view bytes) { return ToDigest<Identity>(bytes); }
Etag ToEtag(absl::string_view bytes) { return ToDigest<Etag>(bytes); }

absl::string_view BytesOf(const Identity& identity) {
  return {reinterpret_cast<const char*>(identity.bytes.data()), identity.bytes.size()};
}
absl::string_view BytesOf(const Etag& etag) {
  return {reinterpret_cast<const char*>(etag.bytes.data()), etag.bytes.size()};
}

void AppendFoundRecord(const FoundRecord& record, std::string* out) {
  out->append(BytesOf(record.etag).data(), kEtagBytes);
  AppendField<uint64_t>(record.bytes, out);
  AppendField<uint64_t>(record.tokens, out);
  out->push_back(static_cast<char>(record.tier));
  out->append(7, '\0');
}

FoundRecord FoundRecordAt(absl::string_view records, int64_t i) {
  FieldReader reader(records.substr(static_cast<size_t>(i * kFoundRecordBytes), kFoundRecordBytes));
  FoundRecord record;
  reader.ReadBytes(record.etag.bytes.data(), kEtagBytes);
  record.bytes = reader.Read<uint64_t>();
  record.tokens = reader.Read<uint64_t>();
  record.tier = reader.Read<uint8_t>();
  return record;
}

std::string PackSlots(absl::Span<const uint16_t> slots) {
  std::string packed;
  for (const uint16_t slot : slots) AppendField<uint16_t>(slot, &packed);
  return packed;
}

std::vector<uint16_t> UnpackSlots(absl::string_view packed) {
  FieldReader reader(packed);
  std::vector<uint16_t> slots(packed.size() / sizeof(uint16_t));
  for (uint16_t& slot : slots) slot = reader.Read<uint16_t>();
  return slots;
}

void AppendSlotDigest(const SlotDigest& digest, std::string* out) {
  AppendField<uint64_t>(digest.low, out);
  AppendField<uint64_t>(digest.high, out);
  AppendField<uint64_t>(digest.bytes, out);
  AppendField<uint32_t>(digest.encodings, out);
  AppendField<uint32_t>(0, out);
}

SlotDigest SlotDigestAt(absl::string_view records, int64_t i) {
  FieldReader reader(records.substr(static_cast<size_t>(i * kSlotDigestBytes), kSlotDigestBytes));
  SlotDigest digest;
  digest.low = reader.Read<uint64_t>();
  digest.high = reader.Read<uint64_t>();
  digest.bytes = reader.Read<uint64_t>();
  digest.encodings = reader.Read<uint32_t>();
  return digest;
}

void ToProto(const SlotEntry& entry, proto::SlotListed::Encoding* out) {
  out->set_ns(entry.ns);
  out->set_identity(std::string(BytesOf(entry.identity)));
  out->set_codec(static_cast<uint32_t>(entry.codec));
  out->set_etag(std::string(BytesOf(entry.etag)));
  out->set_bytes(static_cast<uint64_t>(entry.bytes));
  out->set_heat(static_cast<uint32_t>(entry.heat));
}

SlotEntry FromProto(const proto::SlotListed::Encoding& encoding) {
  return {.ns = encoding.ns(),
          .identity = ToIdentity(encoding.identity()),
          .codec = static_cast<Codec>(encoding.codec()),
          .etag = ToEtag(encoding.etag()),
          .bytes = static_cast<int64_t>(encoding.bytes()),
          .heat = static_cast<int>(encoding.heat())};
}

void ToProto(const DropPosition& position, proto::DropPosition* out) {
  out->set_log(position.log.data(), position.log.size());
  out->set_transaction(position.transaction);
  out->set_sequence(position.sequence);
}

DropPosition FromProto(const proto::DropPosition& position) {
  DropPosition from;
  std::memcpy(from.log.data(), position.log().data(), std::min(position.log().size(), from.log.size()));
  from.transaction = position.transaction();
  from.sequence = position.sequence();
  return from;
}

}  // namespace kvlink
