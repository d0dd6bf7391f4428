#include "proto/envelope.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"

namespace kvlink {
namespace {

uint32_t PayloadChecksum(absl::string_view payload) {
  return static_cast<uint32_t>(Checksum64({reinterpret_cast<const std::byte*>(payload.data()), payload.size()}));
}

}  // namespace

std::optional<uint8_t> EnvelopeMajor(const EnvelopeKind& kind, absl::string_view bytes) {
  uint32_t magic = 0;
  if (bytes.size() < static_cast<size_t>(kEnvelopeBytes)) return std::nullopt;
  std::memcpy(&magic, bytes.data(), 4);
  if (magic != kind.magic) return std::nullopt;
  return static_cast<uint8_t>(bytes[4]);
}

std::string WrapEnvelope(const EnvelopeKind& kind, absl::string_view payload) {
  std::string out(kEnvelopeBytes, '\0');
  const uint32_t length = static_cast<uint32_t>(payload.size());
  const uint32_t checksum = PayloadChecksum(payload);
  std::memcpy(&out[0], &kind.magic, 4);
  out[4] = static_cast<char>(kind.major);
  out[5] = static_cast<char>(kind.minor);
  std::memcpy(&out[8], &length, 4);
  std::memcpy(&out[12], &checksum, 4);
  out.append(payload.data(), payload.size());
  return out;
}

absl::StatusOr<absl::string_view> OpenEnvelope(const EnvelopeKind& kind, absl::string_view bytes) {
  if (bytes.size() < static_cast<size_t>(kEnvelopeBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(kind.name, ": truncated to ", bytes.size(), " bytes"));
  }
  uint32_t magic, length, checksum;
  uint16_t reserved;
  std::memcpy(&magic, bytes.data(), 4);
  std::memcpy(&reserved, bytes.data() + 6, 2);
  std::memcpy(&length, bytes.data() + 8, 4);
  std::memcpy(&checksum, bytes.data() + 12, 4);
  if (magic != kind.magic) {
    return absl::InvalidArgumentError(
        absl::StrCat(kind.name, ": starts with 0x", absl::Hex(magic), " instead of 0x", absl::Hex(kind.magic)));
  }
  const int major = static_cast<uint8_t>(bytes[4]);
  if (major == 0) return absl::InvalidArgumentError(absl::StrCat(kind.name, ": format version 0 never existed"));
  const int oldest = kind.oldest != 0 ? kind.oldest : kind.major - 1;
  if (major < oldest || major > kind.major) {
    return absl::UnimplementedError(
        absl::StrCat(kind.name, ": format version ", major, ".", static_cast<int>(static_cast<uint8_t>(bytes[5])),
                     "; this build reads version ", static_cast<int>(kind.major), "; use the build that wrote it",
                     major > kind.major ? " or a newer one" : ""));
  }
  const absl::string_view payload = bytes.substr(kEnvelopeBytes);
  if (reserved != 0) return absl::InvalidArgumentError(absl::StrCat(kind.name, ": reserved bytes are not zero"));
  if (length != payload.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kind.name, ": says ", length, " payload bytes and has ", payload.size()));
  }
  if (checksum != PayloadChecksum(payload)) {
    return absl::InvalidArgumentError(absl::StrCat(kind.name, ": checksum does not match"));
  }
  return payload;
}

}  // namespace kvlink
