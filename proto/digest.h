// The three names everything in KVLink is found by, and the hashes behind them (docs/formats.md "Identity", "Etag").
//   Fingerprint  which model made an encoding       SHA-256
//   Identity     what an encoding means             SHA-256, or HMAC-SHA256 under the tenant's secret
//   Etag         which encoding it is, to the bit   XXH3-128 of its canonical manifest record
// Thread-safety: values and pure functions; a Sha256 by one thread at a time.
#ifndef KVLINK_PROTO_DIGEST_H_
#define KVLINK_PROTO_DIGEST_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink {

template <int kBytes>
struct Digest {
  std::array<uint8_t, kBytes> bytes{};
  auto operator<=>(const Digest&) const = default;
  // Lower-case hexadecimal.
  std::string Hex() const;
  // INVALID_ARGUMENT unless `hex` is 2 * kBytes hexadecimal digits.
  static absl::StatusOr<Digest> FromHex(absl::string_view hex);
  bool empty() const { return *this == Digest{}; }
  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine_contiguous(std::move(h), d.bytes.data(), d.bytes.size());
  }
};

struct Fingerprint : Digest<32> {};
struct Identity : Digest<32> {};
struct Etag : Digest<16> {};

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(absl::Span<const std::byte> bytes);
  void Update(absl::string_view bytes);
  std::array<uint8_t, 32> Finish();  // call once, last

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Version of the layout and rotation of keys and values; part of the identity, so that changing the convention causes
// misses.
inline constexpr uint32_t kLayoutConvention = 1;

struct IdentityInput {
  Fingerprint model;
  std::string context_digest;  // empty: encoded alone
  absl::Span<const int32_t> tokens;
};
// An empty `tenant_secret` means plain SHA-256.
Identity ComputeIdentity(const IdentityInput& input, absl::string_view tenant_secret);

// XXH3-64, seed 0.
uint64_t Checksum64(absl::Span<const std::byte> bytes);
// XXH3-128, seed 0, of an etag record (Manifest::Seal), given as its fields and the unit checksums that follow them.
Etag ComputeEtag(absl::string_view fields, absl::Span<const uint64_t> unit_checksums);

}  // namespace kvlink

#endif  // KVLINK_PROTO_DIGEST_H_
