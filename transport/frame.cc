#include "transport/frame.h"

#include "base/little_endian.h"
#include "base/status.h"
#include "transport/transport.h"

namespace kvlink::transport {
namespace {

constexpr uint32_t kMagic = 0x544c564b;  // "KVLT"
constexpr uint8_t kMajor = 1, kMinor = 0;
constexpr size_t kHelloBytes = 12, kGrantBytes = 16, kIdBytes = 8;

bool ValidBody(FrameKind kind, size_t bytes) {
  switch (kind) {
    case FrameKind::kHello:
      return bytes == kHelloBytes;
    case FrameKind::kMessage:
      return bytes >= 1 && bytes <= static_cast<size_t>(kMaxMessageBytes);
    case FrameKind::kGrant:
      return bytes >= kGrantBytes && bytes <= kMaxGrants * kGrantBytes && bytes % kGrantBytes == 0;
    case FrameKind::kWithdraw:
      return bytes >= kIdBytes && bytes <= kMaxGrants * kIdBytes && bytes % kIdBytes == 0;
    case FrameKind::kHeartbeat:
      return bytes == 0;
    case FrameKind::kPayload:
      return bytes == kGrantBytes;
  }
  return false;
}

}  // namespace

std::string FrameHeader(FrameKind kind, uint32_t sequence, uint64_t token, size_t body_bytes) {
  std::string out;
  out.reserve(kFrameHeaderBytes);
  AppendField(kMagic, &out);
  AppendField(kMajor, &out);
  AppendField(kMinor, &out);
  AppendField(static_cast<uint8_t>(kind), &out);
  AppendField(uint8_t{0}, &out);
  AppendField(static_cast<uint32_t>(body_bytes), &out);
  AppendField(sequence, &out);
  AppendField(token, &out);
  return out;
}

uint64_t FrameToken(absl::string_view bytes) {
  if (bytes.size() < static_cast<size_t>(kFrameHeaderBytes)) return 0;
  FieldReader reader(bytes.substr(kFrameHeaderBytes - sizeof(uint64_t)));
  return reader.Read<uint64_t>();
}

absl::StatusOr<Frame> ParseFrame(absl::string_view bytes) {
  FieldReader reader(bytes);
  const uint32_t magic = reader.Read<uint32_t>();
  const uint8_t major = reader.Read<uint8_t>();
  reader.Read<uint8_t>();  // minor: only adds fields that may be skipped
  Frame frame;
  frame.kind = static_cast<FrameKind>(reader.Read<uint8_t>());
  const uint8_t reserved = reader.Read<uint8_t>();
  const uint32_t length = reader.Read<uint32_t>();
  frame.sequence = reader.Read<uint32_t>();
  frame.token = reader.Read<uint64_t>();
  if (!reader.ok() || magic != kMagic) return absl::InvalidArgumentError("transport frame: not one of ours");
  if (major != kMajor) {
    return absl::UnimplementedError(absl::StrCat("transport frame: version ", major, ", this build speaks ", kMajor,
                                                 "; use the same release on both sides"));
  }
  frame.body = bytes.substr(kFrameHeaderBytes);
  if (reserved != 0 || frame.body.size() != length || !ValidBody(frame.kind, length)) {
    return absl::InvalidArgumentError(absl::StrCat("transport frame: kind ", static_cast<int>(frame.kind),
                                                   " with a body of ", frame.body.size(), " bytes, said to be ",
                                                   length));
  }
  return frame;
}

std::string HelloBody(const Hello& hello) {
  std::string out;
  AppendField(hello.token, &out);
  AppendField(hello.heartbeat_ms, &out);
  return out;
}

Hello ParseHello(absl::string_view body) {
  FieldReader reader(body);
  Hello hello;
  hello.token = reader.Read<uint64_t>();
  hello.heartbeat_ms = reader.Read<uint32_t>();
  return hello;
}

std::string GrantBody(absl::Span<const Grant> grants) {
  std::string out;
  out.reserve(grants.size() * kGrantBytes);
  for (const Grant& grant : grants) {
    AppendField(grant.id, &out);
    AppendField(grant.bytes, &out);
  }
  return out;
}

std::vector<Grant> ParseGrants(absl::string_view body) {
  std::vector<Grant> grants(body.size() / kGrantBytes);
  FieldReader reader(body);
  for (Grant& grant : grants) {
    grant.id = reader.Read<uint64_t>();
    grant.bytes = reader.Read<uint64_t>();
  }
  return grants;
}

std::string WithdrawBody(absl::Span<const uint64_t> ids) {
  std::string out;
  out.reserve(ids.size() * kIdBytes);
  for (const uint64_t id : ids) AppendField(id, &out);
  return out;
}

std::vector<uint64_t> ParseWithdraw(absl::string_view body) {
  std::vector<uint64_t> ids(body.size() / kIdBytes);
  FieldReader reader(body);
  for (uint64_t& id : ids) id = reader.Read<uint64_t>();
  return ids;
}

}  // namespace kvlink::transport
