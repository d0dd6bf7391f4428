// The frames of a connection (docs/formats.md "Transport frames"), independent of the carrier. Little-endian:
//   u32 magic "KVLT" | u8 major | u8 minor | u8 kind | u8 0 | u32 body bytes | u32 sequence | u64 token | body
// Thread-safety: pure functions.
#ifndef KVLINK_TRANSPORT_FRAME_H_
#define KVLINK_TRANSPORT_FRAME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::transport {

// The values are on the wire; never renumber.
enum class FrameKind : uint8_t {
  kHello = 1,      // u64 sender's token, u32 sender's heartbeat limit in milliseconds
  kMessage = 2,    // the user's bytes, 1 to kMaxMessageBytes
  kGrant = 3,      // posted receives: (u64 id, u64 bytes) each, 1 to kMaxGrants
  kWithdraw = 4,   // withdrawn receives: u64 id each, 1 to kMaxGrants
  kHeartbeat = 5,  // empty
  kPayload = 6,    // u64 id, u64 bytes; the bytes travel separately
};

inline constexpr int64_t kFrameHeaderBytes = 24;
inline constexpr int kMaxGrants = 4096;  // in one frame

struct Frame {
  FrameKind kind;
  uint32_t sequence;
  uint64_t token;
  absl::string_view body;  // a view into the parsed bytes
};

struct Hello {
  uint64_t token = 0;
  uint32_t heartbeat_ms = 0;
};

struct Grant {
  uint64_t id = 0;
  uint64_t bytes = 0;
};

// Returns the header of a frame with a body of `body_bytes`.
std::string FrameHeader(FrameKind kind, uint32_t sequence, uint64_t token, size_t body_bytes);

// Returns the token of what may be a frame, to find its session before parsing it. 0: no session yet (hello), or too
// short.
uint64_t FrameToken(absl::string_view bytes);

// INVALID_ARGUMENT: not exactly one frame, or a body length that the kind does not allow. UNIMPLEMENTED: another major
// version.
absl::StatusOr<Frame> ParseFrame(absl::string_view bytes);

// Frame bodies. The parsers REQUIRE a body that ParseFrame accepted for the kind.
std::string HelloBody(const Hello& hello);
Hello ParseHello(absl::string_view body);
std::string GrantBody(absl::Span<const Grant> grants);  // also the body of kPayload, with one grant
std::vector<Grant> ParseGrants(absl::string_view body);
std::string WithdrawBody(absl::Span<const uint64_t> ids);
std::vector<uint64_t> ParseWithdraw(absl::string_view body);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_FRAME_H_
