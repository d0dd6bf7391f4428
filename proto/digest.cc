#include "proto/digest.h"

#define XXH_INLINE_ALL
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <xxhash.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/checksum.h"

namespace kvlink {
namespace {

static_assert(std::endian::native == std::endian::little, "stored integers are written as they lie in memory");

constexpr absl::string_view kIdentityMagic = "KVLINKID";
constexpr uint32_t kIdentityVersion = 1;

template <typename T>
void AppendRaw(T value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// docs/formats.md "Identity".
std::string IdentityRecord(const IdentityInput& input) {
  std::string record;
  record.reserve(64 + input.context_digest.size() + input.tokens.size() * sizeof(int32_t));
  record.append(kIdentityMagic.data(), kIdentityMagic.size());
  AppendRaw<uint32_t>(kIdentityVersion, record);
  AppendRaw<uint32_t>(kLayoutConvention, record);
  record.append(reinterpret_cast<const char*>(input.model.bytes.data()), input.model.bytes.size());
  AppendRaw<uint32_t>(static_cast<uint32_t>(input.context_digest.size()), record);
  record.append(input.context_digest);
  AppendRaw<uint64_t>(input.tokens.size(), record);
  record.append(reinterpret_cast<const char*>(input.tokens.data()), input.tokens.size() * sizeof(int32_t));
  return record;
}

}  // namespace

template <int kBytes>
std::string Digest<kBytes>::Hex() const {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

template <int kBytes>
absl::StatusOr<Digest<kBytes>> Digest<kBytes>::FromHex(absl::string_view hex) {
  bool digits = hex.size() == 2 * kBytes;
  for (char c : hex) digits = digits && absl::ascii_isxdigit(static_cast<unsigned char>(c));
  if (!digits) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", absl::CHexEscape(hex.substr(0, 80)), "' is not ", 2 * kBytes, " hexadecimal digits"));
  }
  const std::string raw = absl::HexStringToBytes(hex);
  Digest digest;
  std::memcpy(digest.bytes.data(), raw.data(), kBytes);
  return digest;
}

template struct Digest<16>;
template struct Digest<32>;

namespace {

// A wrong digest would give an encoding another's name, and everything after that would be wrong.
void Require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "kvlink: OpenSSL cannot %s SHA-256 (no memory, or a policy that forbids it)\n", what);
  std::abort();
}

}  // namespace

struct Sha256::Impl {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  Require(impl_->context != nullptr && EVP_DigestInit_ex(impl_->context.get(), EVP_sha256(), nullptr) == 1, "init");
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::Span<const std::byte> bytes) {
  Require(EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size()) == 1, "update");
}

void Sha256::Update(absl::string_view bytes) {
  Require(EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size()) == 1, "update");
}

std::array<uint8_t, 32> Sha256::Finish() {
  std::array<uint8_t, 32> out{};
  unsigned int length = 0;
  Require(EVP_DigestFinal_ex(impl_->context.get(), out.data(), &length) == 1 && length == out.size(), "end");
  return out;
}

Identity ComputeIdentity(const IdentityInput& input, absl::string_view tenant_secret) {
  const std::string record = IdentityRecord(input);
  Identity identity;
  if (tenant_secret.empty()) {
    Sha256 hash;
    hash.Update(record);
    identity.bytes = hash.Finish();
  } else {
    unsigned int length = 0;
    const unsigned char* const made =
        HMAC(EVP_sha256(), tenant_secret.data(), static_cast<int>(tenant_secret.size()),
             reinterpret_cast<const unsigned char*>(record.data()), record.size(), identity.bytes.data(), &length);
    Require(made != nullptr && length == identity.bytes.size(), "make an HMAC with");
  }
  return identity;
}

uint64_t Checksum64(absl::Span<const std::byte> bytes) { return Xxh3(bytes.data(), bytes.size()); }

Etag ComputeEtag(absl::string_view fields, absl::Span<const uint64_t> unit_checksums) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, fields.data(), fields.size());
  XXH3_128bits_update(&state, unit_checksums.data(), unit_checksums.size() * sizeof(uint64_t));
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
  Etag etag;
  static_assert(sizeof(canonical.digest) == sizeof(etag.bytes));
  std::memcpy(etag.bytes.data(), canonical.digest, sizeof(canonical.digest));
  return etag;
}

}  // namespace kvlink
