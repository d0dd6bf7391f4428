// Wire encoding of the data path's messages (docs/formats.md "Data messages"): envelopes around proto::Request ("KVLR")
// and proto::Answer ("KVLA") of proto/data.proto.
//
// The parsers accept only fields of the documented sizes: identities of 32 bytes, etags of 16, counts within their
// bounds, a body that is set, and known codecs, tiers and actions. The receiver decides whether they make sense.
//
// Thread-safety: pure functions.
#ifndef KVLINK_PROTO_DATA_H_
#define KVLINK_PROTO_DATA_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/data.pb.h"
#include "proto/digest.h"
#include "proto/slots.h"

namespace kvlink {

inline constexpr int kMaxIdentities = 4096;                     // in one message
inline constexpr int kMaxPieces = 65536;                        // in one pull
inline constexpr int kMaxSlotsAsked = 4096;                     // in one message
inline constexpr int kMaxSlotEntries = 2048;                    // in one message
inline constexpr uint64_t kMaxSlotBytes = uint64_t{1} << 46;    // bytes of slabs in one slot
inline constexpr int64_t kSlotListPiece = int64_t{192} << 10;   // bytes of entries in one message
inline constexpr int64_t kMaxDataMessage = int64_t{256} << 10;  // bytes, including the envelope
inline constexpr int64_t kManifestPiece = int64_t{192} << 10;   // max bytes of a manifest in one message
inline constexpr int64_t kMaxManifest = int64_t{16} << 20;      // bytes of a manifest on the data path

// The range of protocol versions one side speaks: the major versions of these messages' envelopes. The default is this
// build's range.
struct ProtocolRange {
  uint32_t min = 2, max = 2;
};
inline constexpr ProtocolRange kProtocols;
// Returns the highest version both sides speak. UNIMPLEMENTED, saying which side to upgrade: there is none. A range of
// zeros comes from a build that names none and means protocol 1.
absl::StatusOr<uint32_t> CommonProtocol(ProtocolRange client, ProtocolRange node);

// REQUIRES: `protocol` is in kProtocols.
std::string SerializeRequest(const proto::Request& request, uint32_t protocol = kProtocols.max);
std::string SerializeAnswer(const proto::Answer& answer, uint32_t protocol = kProtocols.max);
// INVALID_ARGUMENT: damaged (the envelope carries a checksum), malformed or out of bounds. UNIMPLEMENTED: another
// protocol, saying which side to upgrade, or a body this build does not know. If given, `id` and `protocol` are set to
// the request's whenever the message could be read at all, so that the refusal can name it; otherwise they are left
// unchanged.
absl::StatusOr<proto::Request> ParseRequest(absl::string_view bytes, uint64_t* id = nullptr,
                                            uint32_t* protocol = nullptr);
absl::StatusOr<proto::Answer> ParseAnswer(absl::string_view bytes);

// Converts proto::Moved to a status, on both sides: FAILED_PRECONDITION carrying the epoch of the node that answered.
// MovedEpoch returns nullopt for any other status.
absl::Status MovedStatus(uint64_t epoch);
std::optional<uint64_t> MovedEpoch(const absl::Status& status);
inline constexpr uint8_t kMovedCode = 32;  // in ActionDone; not an absl::StatusCode
inline constexpr uint8_t kMovedTier = 3;   // in a FoundRecord

// Stops the protobuf library from writing to standard error when a message is malformed; errors are still returned.
// Affects the whole process. Processes that read messages from untrusted peers call it once.
void SilenceProtobuf();

std::string PackIdentities(absl::Span<const Identity> identities);
// REQUIRES: `packed` is a multiple of 32 bytes.
std::vector<Identity> UnpackIdentities(absl::string_view packed);
// REQUIRES: `bytes` is as long as the name.
Identity ToIdentity(absl::string_view bytes);
Etag ToEtag(absl::string_view bytes);
absl::string_view BytesOf(const Identity& identity);
absl::string_view BytesOf(const Etag& etag);

// One record of proto::Found.
struct FoundRecord {
  Etag etag;
  uint64_t bytes = 0;
  uint64_t tokens = 0;
  uint8_t tier = 0;  // 0 absent, 1 DRAM, 2 disk, kMovedTier
};
inline constexpr int64_t kFoundRecordBytes = 40;
void AppendFoundRecord(const FoundRecord& record, std::string* out);
// REQUIRES: records.size() >= (i + 1) * kFoundRecordBytes.
FoundRecord FoundRecordAt(absl::string_view records, int64_t i);

std::string PackSlots(absl::Span<const uint16_t> slots);
// REQUIRES: `packed` is a multiple of 2 bytes.
std::vector<uint16_t> UnpackSlots(absl::string_view packed);
// One record of proto::SlotDigestsFound.
inline constexpr int64_t kSlotDigestBytes = 32;
void AppendSlotDigest(const SlotDigest& digest, std::string* out);
// REQUIRES: records.size() >= (i + 1) * kSlotDigestBytes.
SlotDigest SlotDigestAt(absl::string_view records, int64_t i);
void ToProto(const SlotEntry& entry, proto::SlotListed::Encoding* out);
// REQUIRES: `encoding` is from a parsed message.
SlotEntry FromProto(const proto::SlotListed::Encoding& encoding);
void ToProto(const DropPosition& position, proto::DropPosition* out);
// REQUIRES: `position` is from a parsed message.
DropPosition FromProto(const proto::DropPosition& position);

}  // namespace kvlink

#endif  // KVLINK_PROTO_DATA_H_
