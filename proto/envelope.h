// The header of all our files, records and frames (docs/formats.md "Envelope"), little-endian:
//   u32 magic | u8 major | u8 minor | u16 reserved 0 | u32 payload length | u32 low half of XXH3-64(payload) | payload
// Thread-safety: pure functions.
#ifndef KVLINK_PROTO_ENVELOPE_H_
#define KVLINK_PROTO_ENVELOPE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink {

inline constexpr int64_t kEnvelopeBytes = 16;

struct EnvelopeKind {
  uint32_t magic;
  uint8_t major;  // what this build writes; it reads this and the one before
  uint8_t minor;
  absl::string_view name;  // for messages: "manifest"
  uint8_t oldest = 0;      // major version that this build reads, where that is not the one before; 0: it is
};

std::string WrapEnvelope(const EnvelopeKind& kind, absl::string_view payload);
// The payload, a view into `bytes`. INVALID_ARGUMENT: wrong magic, truncated, trailing bytes, checksum; UNIMPLEMENTED:
// other major.
absl::StatusOr<absl::string_view> OpenEnvelope(const EnvelopeKind& kind, absl::string_view bytes);

}  // namespace kvlink

#endif  // KVLINK_PROTO_ENVELOPE_H_
