// The frames of a connection (docs/formats.md "Transport frames"), whatever carries them. Little-endian:
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

// The values are on the wire.
enum class FrameKind : uint8_t {
  kHello = 1,      // u64 token of the sender, u32 its heartbeat limit in milliseconds
  kMessage = 2,    // bytes of the user, 1 to kMaxMessageBytes
  kGrant = 3,      // receives: (u64 id, u64 bytes) each, 1 to kMaxGrants
  kWithdraw = 4,   // receives taken back: u64 id each, 1 to kMaxGrants
  kHeartbeat = 5,  // empty
  kPayload = 6,    // u64 id, u64 bytes; the bytes travel beside it
};

inline constexpr int64_t kFrameHeaderBytes = 24;
inline constexpr int kMaxGrants = 4096;  // of one frame

struct Frame {
  FrameKind kind;
  uint32_t sequence;
  uint64_t token;
  absl::string_view body;  // into the bytes that were parsed
};

struct Hello {
  uint64_t token = 0;
  uint32_t heartbeat_ms = 0;
};

struct Grant {
  uint64_t id = 0;
  uint64_t bytes = 0;
};

// The header, to be followed by `body_bytes`.
std::string FrameHeader(FrameKind kind, uint32_t sequence, uint64_t token, size_t body_bytes);

// The token of what may be a frame: whose it is, before it is parsed. 0: of nobody yet (hello), or too short.
uint64_t FrameToken(absl::string_view bytes);

// INVALID_ARGUMENT: not exactly one frame, or a body of a length that its kind does not have. UNIMPLEMENTED: another
// major version.
absl::StatusOr<Frame> ParseFrame(absl::string_view bytes);

// Bodies. REQUIRES for the parsers: a body that ParseFrame accepted for the kind.
std::string HelloBody(const Hello& hello);
Hello ParseHello(absl::string_view body);
std::string GrantBody(absl::Span<const Grant> grants);  // also the body of kPayload: one grant
std::vector<Grant> ParseGrants(absl::string_view body);
std::string WithdrawBody(absl::Span<const uint64_t> ids);
std::vector<uint64_t> ParseWithdraw(absl::string_view body);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_FRAME_H_
