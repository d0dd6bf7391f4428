// The header of all our files, records and frames (docs/formats.md "Envelope"), little-endian:
//   u32 magic | u8 major | u8 minor | u16 reserved 0 | u32 payload length | u32 low half of XXH3-64(payload) | payload
// Thread-safety: pure functions.
#ifndef KVLINK_PROTO_ENVELOPE_H_
#define KVLINK_PROTO_ENVELOPE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink {

inline constexpr int64_t kEnvelopeBytes = 16;

struct EnvelopeKind {
  uint32_t magic;
  uint8_t major;  // the version this build writes; it reads this and the previous one
  uint8_t minor;
  absl::string_view name;  // used in messages: "manifest"
  uint8_t oldest = 0;      // oldest major version this build reads; 0: the previous one
};

// Returns the major version in `bytes`, or nullopt if they do not begin like this kind.
std::optional<uint8_t> EnvelopeMajor(const EnvelopeKind& kind, absl::string_view bytes);
std::string WrapEnvelope(const EnvelopeKind& kind, absl::string_view payload);
// Returns the payload, a view into `bytes`. INVALID_ARGUMENT: wrong magic, truncated, trailing bytes, or wrong
// checksum. UNIMPLEMENTED: another major version.
absl::StatusOr<absl::string_view> OpenEnvelope(const EnvelopeKind& kind, absl::string_view bytes);

}  // namespace kvlink

#endif  // KVLINK_PROTO_ENVELOPE_H_
