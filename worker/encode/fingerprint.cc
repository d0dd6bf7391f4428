// The model fingerprint and its cache (docs/formats.md "Identity", "Fingerprint cache").
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "worker/encode/encoder.h"

namespace kvlink::encode {
namespace {

constexpr absl::string_view kFingerprintMagic = "KVLINKFP";
constexpr uint32_t kFingerprintVersion = 1;
// "KVLF"
constexpr EnvelopeKind kCacheKind{0x464C564B, 1, 0, "fingerprint cache"};

class Hasher {
 public:
  template <typename T>
  void Number(T value) {
    hash_.Update(absl::string_view(reinterpret_cast<const char*>(&value), sizeof(value)));
  }
  void Raw(absl::string_view bytes) { hash_.Update(bytes); }
  void Raw(absl::Span<const std::byte> bytes) { hash_.Update(bytes); }
  void Text(absl::string_view text) {
    Number<uint64_t>(text.size());
    hash_.Update(text);
  }
  std::array<uint8_t, 32> Finish() { return hash_.Finish(); }

 private:
  Sha256 hash_;
};

Fingerprint HashModel(const model::Weights& weights) {
  Hasher hasher;
  hasher.Raw(kFingerprintMagic);
  hasher.Number<uint32_t>(kFingerprintVersion);
  hasher.Text(weights.config().Canonical());
  hasher.Number<uint64_t>(weights.tensors().size());
  for (const model::SourceTensor& tensor : weights.tensors()) {
    hasher.Text(tensor.name);
    hasher.Text(tensor.type);
    hasher.Number<uint64_t>(tensor.shape.size());
    for (const int64_t size : tensor.shape) hasher.Number<int64_t>(size);
    hasher.Number<uint64_t>(tensor.bytes.size());
    hasher.Raw(tensor.bytes);
  }
  Fingerprint fingerprint;
  fingerprint.bytes = hasher.Finish();
  return fingerprint;
}

// A digest of the current state of the model's files; nullopt if a file cannot be examined.
std::optional<std::array<uint8_t, 32>> StateOf(const model::Weights& weights) {
  Hasher hasher;
  hasher.Number<uint32_t>(kFingerprintVersion);
  hasher.Text(weights.config().Canonical());
  for (const std::string& path : weights.files()) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return std::nullopt;
    hasher.Number<uint64_t>(info.st_dev);
    hasher.Number<uint64_t>(info.st_ino);
    hasher.Number<uint64_t>(info.st_size);
    hasher.Number<int64_t>(info.st_mtim.tv_sec);
    hasher.Number<int64_t>(info.st_mtim.tv_nsec);
  }
  return hasher.Finish();
}

std::string CachePath(const model::Weights& weights) {
  return absl::StrCat(weights.files().front(), ".kvlink-fingerprint");
}

std::optional<Fingerprint> ReadCache(const std::string& path, const std::array<uint8_t, 32>& state) {
  std::ifstream file(path, std::ios::binary);
  char bytes[kEnvelopeBytes + 65];
  file.read(bytes, sizeof(bytes));
  const auto payload = OpenEnvelope(kCacheKind, absl::string_view(bytes, static_cast<size_t>(file.gcount())));
  if (!payload.ok() || payload->size() != 64) return std::nullopt;
  if (std::memcmp(payload->data(), state.data(), 32) != 0) return std::nullopt;
  Fingerprint fingerprint;
  std::memcpy(fingerprint.bytes.data(), payload->data() + 32, 32);
  return fingerprint;
}

void WriteCache(const std::string& path, const std::array<uint8_t, 32>& state, const Fingerprint& fingerprint) {
  std::string payload(reinterpret_cast<const char*>(state.data()), 32);
  payload.append(reinterpret_cast<const char*>(fingerprint.bytes.data()), 32);
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file << WrapEnvelope(kCacheKind, payload);
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) unlink(temporary.c_str());
}

}  // namespace

absl::StatusOr<Fingerprint> FingerprintOf(const model::Weights& weights, bool use_cache) {
  if (weights.files().empty()) use_cache = false;
  const auto state = use_cache ? StateOf(weights) : std::nullopt;
  if (state.has_value()) {
    if (const auto cached = ReadCache(CachePath(weights), *state)) return *cached;
  }
  const Fingerprint fingerprint = HashModel(weights);
  // Do not cache the fingerprint of files that changed while they were hashed.
  if (state.has_value() && StateOf(weights) == state) WriteCache(CachePath(weights), *state, fingerprint);
  return fingerprint;
}

}  // namespace kvlink::encode
