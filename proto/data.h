// Messages of the data path as bytes (docs/formats.md "Data messages"): envelopes around proto::Request ("KVLR") and
// proto::Answer ("KVLA"), proto/data.proto.
//
// Parse accepts only fields of the documented sizes: identities of 32 bytes, etags of 16, counts within their bounds, a
// body that is set, and known codecs, tiers and actions. Whether they make sense is for the receiver to decide.
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

inline constexpr int kMaxIdentities = 4096;                     // of one message
inline constexpr int kMaxPieces = 65536;                        // of one pull
inline constexpr int kMaxSlotsAsked = 4096;                     // of one message
inline constexpr int kMaxSlotEntries = 2048;                    // of one message
inline constexpr uint64_t kMaxSlotBytes = uint64_t{1} << 46;    // of the slabs of one
inline constexpr int64_t kSlotListPiece = int64_t{192} << 10;   // bytes of entries in one message
inline constexpr int64_t kMaxDataMessage = int64_t{256} << 10;  // bytes, envelope included
inline constexpr int64_t kManifestPiece = int64_t{192} << 10;   // most bytes of a manifest in one message
inline constexpr int64_t kMaxManifest = int64_t{16} << 20;      // bytes of a manifest on the data path

// Versions of these messages (the protocol) that one side speaks: the major versions of their envelopes. The default:
// this build's.
struct ProtocolRange {
  uint32_t min = 2, max = 2;
};
inline constexpr ProtocolRange kProtocols;
// The highest version that both speak. UNIMPLEMENTED, saying which side to upgrade: there is none. A range of zeros is
// that of a build that names none: protocol 1.
absl::StatusOr<uint32_t> CommonProtocol(ProtocolRange client, ProtocolRange node);

// `protocol`: of kProtocols.
std::string SerializeRequest(const proto::Request& request, uint32_t protocol = kProtocols.max);
std::string SerializeAnswer(const proto::Answer& answer, uint32_t protocol = kProtocols.max);
// INVALID_ARGUMENT: damaged (the envelope carries a checksum), malformed or out of bounds; UNIMPLEMENTED: another
// protocol, saying which side to upgrade, or a body this build does not know. `id` and `protocol`, if given, become the
// request's where the message could be read at all, so that the refusal can name it; else they are left alone.
absl::StatusOr<proto::Request> ParseRequest(absl::string_view bytes, uint64_t* id = nullptr,
                                            uint32_t* protocol = nullptr);
absl::StatusOr<proto::Answer> ParseAnswer(absl::string_view bytes);

// proto::Moved as a status, on both sides: FAILED_PRECONDITION with the epoch of the node that answered. MovedEpoch:
// nothing for every other status.
absl::Status MovedStatus(uint64_t epoch);
std::optional<uint64_t> MovedEpoch(const absl::Status& status);
inline constexpr uint8_t kMovedCode = 32;  // in ActionDone; no absl::StatusCode
inline constexpr uint8_t kMovedTier = 3;   // in a FoundRecord

// The protobuf library writes to standard error when a message is malformed. A process that reads messages of strangers
// calls this once: errors are returned, and nothing else is written. For the whole process.
void SilenceProtobuf();

std::string PackIdentities(absl::Span<const Identity> identities);
// REQUIRES: a multiple of 32 bytes.
std::vector<Identity> UnpackIdentities(absl::string_view packed);
// REQUIRES: as many bytes as the name has.
Identity ToIdentity(absl::string_view bytes);
Etag ToEtag(absl::string_view bytes);
absl::string_view BytesOf(const Identity& identity);
absl::string_view BytesOf(const Etag& etag);

// A record of proto::Found.
struct FoundRecord {
  Etag etag;
  uint64_t bytes = 0;
  uint64_t tokens = 0;
  uint8_t tier = 0;  // 0 absent, 1 DRAM, 2 segments, kMovedTier
};
inline constexpr int64_t kFoundRecordBytes = 40;
void AppendFoundRecord(const FoundRecord& record, std::string* out);
// REQUIRES: records.size() >= (i + 1) * kFoundRecordBytes.
FoundRecord FoundRecordAt(absl::string_view records, int64_t i);

std::string PackSlots(absl::Span<const uint16_t> slots);
// REQUIRES: a multiple of 2 bytes.
std::vector<uint16_t> UnpackSlots(absl::string_view packed);
// A record of proto::SlotDigestsFound.
inline constexpr int64_t kSlotDigestBytes = 32;
void AppendSlotDigest(const SlotDigest& digest, std::string* out);
// REQUIRES: records.size() >= (i + 1) * kSlotDigestBytes.
SlotDigest SlotDigestAt(absl::string_view records, int64_t i);
void ToProto(const SlotEntry& entry, proto::SlotListed::Encoding* out);
// REQUIRES: of a message that was parsed.
SlotEntry FromProto(const proto::SlotListed::Encoding& encoding);
void ToProto(const DropPosition& position, proto::DropPosition* out);
// REQUIRES: of a message that was parsed.
DropPosition FromProto(const proto::DropPosition& position);

}  // namespace kvlink

#endif  // KVLINK_PROTO_DATA_H_
