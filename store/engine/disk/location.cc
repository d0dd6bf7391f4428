#include "store/engine/disk/location.h"

#include <algorithm>

#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "proto/manifest.h"

namespace kvlink::engine {
namespace {

constexpr EnvelopeKind kLocationKind = {0x4c53564b /* "KVSL" */, 2, 0, "location record", /*oldest=*/2};
constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int64_t kMaxBytes = int64_t{1} << 48;
constexpr uint64_t kOnlyDevice = 0;

constexpr EnvelopeKind kBadBlocksKind = {0x4242564b /* "KVBB" */, 1, 0, "bad blocks record"};

}  // namespace

std::string EncodeKey(const EncodingKey& key) {
  std::string bytes = key.ns;
  bytes.push_back('\0');
  bytes.append(reinterpret_cast<const char*>(key.identity.bytes.data()), key.identity.bytes.size());
  bytes.push_back(static_cast<char>(key.codec));
  return bytes;
}

absl::StatusOr<EncodingKey> DecodeKey(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const KeyView key, DecodeKeyView(bytes));
  return key.ToKey();
}

absl::StatusOr<KeyView> DecodeKeyView(absl::string_view bytes) {
  KeyView key;
  const size_t end = bytes.find('\0');
  if (end == absl::string_view::npos || end == 0 || bytes.size() != end + 1 + key.identity.bytes.size() + 1) {
    return absl::InvalidArgumentError("not the key of an encoding");
  }
  key.ns = bytes.substr(0, end);
  std::memcpy(key.identity.bytes.data(), bytes.data() + end + 1, key.identity.bytes.size());
  key.codec = static_cast<Codec>(bytes.back());
  if (key.codec < Codec::kRawBf16 || key.codec > Codec::kQ4) {
    return absl::InvalidArgumentError(absl::StrCat("unknown codec ", static_cast<int>(key.codec), " in a key"));
  }
  return key;
}

std::string SerializeBadBlocks(const std::vector<Run>& runs) {
  std::string payload;
  for (size_t i = 0; i < std::min(runs.size(), kMaxBadRuns); ++i) {
    AppendField<uint32_t>(runs[i].first, &payload);
    AppendField<uint32_t>(runs[i].count, &payload);
  }
  return WrapEnvelope(kBadBlocksKind, payload);
}

absl::StatusOr<std::vector<Run>> ParseBadBlocks(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kBadBlocksKind, bytes));
  if (payload.size() % 8 != 0 || payload.size() / 8 > kMaxBadRuns) {
    return absl::InvalidArgumentError("bad blocks record: wrong length");
  }
  FieldReader reader(payload);
  std::vector<Run> runs;
  uint64_t end = 0;
  while (!reader.at_end()) {
    Run run;
    run.first = reader.Read<uint32_t>();
    run.count = reader.Read<uint32_t>();
    if (run.count == 0 || run.first < end || uint64_t{run.first} + run.count > UINT32_MAX) {
      return absl::InvalidArgumentError("bad blocks record: runs must ascend and not be empty");
    }
    end = uint64_t{run.first} + run.count;
    runs.push_back(run);
  }
  return runs;
}

std::string SerializeLocation(const Location& location) {
  std::string payload(reinterpret_cast<const char*>(location.etag.bytes.data()), location.etag.bytes.size());
  AppendVarint(location.tokens, &payload);
  AppendVarint(location.bytes, &payload);
  AppendVarint(location.manifest_bytes, &payload);
  AppendVarint(location.sequence, &payload);
  AppendVarint(location.runs.size(), &payload);
  for (const Run& run : location.runs) {
    AppendVarint(kOnlyDevice, &payload);
    AppendVarint(run.first, &payload);
    AppendVarint(run.count, &payload);
  }
  return WrapEnvelope(kLocationKind, payload);
}

absl::StatusOr<Location> ParseLocation(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kLocationKind, bytes));
  FieldReader reader(payload);
  Location location;
  reader.ReadBytes(location.etag.bytes.data(), location.etag.bytes.size());
  const uint64_t tokens = reader.ReadVarint(), slabs = reader.ReadVarint(), manifest = reader.ReadVarint();
  location.sequence = reader.ReadVarint();
  const uint64_t runs = reader.ReadVarint();
  if (!reader.ok() || runs < 1 || runs > kMaxRuns) return absl::InvalidArgumentError("location record: number of runs");
  if (tokens < 1 || tokens > kMaxTokens || slabs < kSlabAlignment || slabs % kSlabAlignment != 0 || slabs > kMaxBytes ||
      manifest < 1 || manifest > kMaxManifestBytes) {
    return absl::InvalidArgumentError("location record: sizes that no encoding can have");
  }
  location.tokens = static_cast<int32_t>(tokens);
  location.bytes = static_cast<int64_t>(slabs);
  location.manifest_bytes = static_cast<int32_t>(manifest);
  int64_t blocks = 0;
  for (uint64_t i = 0; i < runs; ++i) {
    const uint64_t device = reader.ReadVarint(), first = reader.ReadVarint(), count = reader.ReadVarint();
    if (!reader.ok()) return absl::InvalidArgumentError("location record: wrong length, or a number that is too long");
    if (device != kOnlyDevice) {
      return absl::UnimplementedError(absl::StrCat("location record: a run on device ", device,
                                                   "; this build knows one device; use the newer one that wrote it"));
    }
    if (count < 1 || first > UINT32_MAX || count > UINT32_MAX - first) {
      return absl::InvalidArgumentError("location record: a run that is empty or ends beyond the last block");
    }
    blocks += static_cast<int64_t>(count);
    location.runs.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(count)});
  }
  if (!reader.at_end()) return absl::InvalidArgumentError("location record: wrong length");
  if (location.blocks() != blocks) return absl::InvalidArgumentError("location record: sizes do not agree");
  return location;
}

}  // namespace kvlink::engine
