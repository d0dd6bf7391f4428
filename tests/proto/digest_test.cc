#include "proto/digest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "base/checksum.h"

namespace kvlink {
namespace {

Fingerprint Counting() {
  Fingerprint fingerprint;
  for (int i = 0; i < 32; ++i) fingerprint.bytes[i] = static_cast<uint8_t>(i);
  return fingerprint;
}

// The expected values are those of Python's hashlib and hmac over the record of docs/formats.md.
TEST(Digest, IdentityIsTheStoredFormat) {
  const std::vector<int32_t> tokens = {1, 2, 3, 49151, -1};
  const IdentityInput input{.model = Counting(), .context_digest = "", .tokens = tokens};
  EXPECT_EQ(ComputeIdentity(input, "").Hex(), "b548bcd1d65d27a8de08268be1c64cb142a77bf1792cdf12d312959e8ab9fc88");
  EXPECT_EQ(ComputeIdentity(input, "tenant secret").Hex(),
            "231514cb15f51eb5d13526fc2334ba3b67062e9268064d1c830229f0811b122a");
  const IdentityInput in_context{.model = Counting(), .context_digest = "context", .tokens = tokens};
  EXPECT_EQ(ComputeIdentity(in_context, "").Hex(), "35f0fee2cc17143b30d76777798b211cd9998b3ab3a08f9e2ec7b5dd6f87a70a");
}

TEST(Digest, IdentityDependsOnEveryPart) {
  const std::vector<int32_t> tokens = {1, 2, 3}, more = {1, 2, 3, 0};
  Fingerprint other = Counting();
  other.bytes[31] ^= 1;
  absl::flat_hash_set<Identity> seen;
  for (const Fingerprint& model : {Counting(), other}) {
    for (const char* context : {"", "c"}) {
      for (const auto* ids : {&tokens, &more}) {
        for (const char* secret : {"", "s", "t"}) seen.insert(ComputeIdentity({model, context, *ids}, secret));
      }
    }
  }
  EXPECT_EQ(seen.size(), 24u);
}

TEST(Digest, HexGoesBothWaysAndRefusesTheRest) {
  const Fingerprint fingerprint = Counting();
  EXPECT_EQ(fingerprint.Hex(), "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
  const auto back = Fingerprint::FromHex(fingerprint.Hex());
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(*back == fingerprint);
  EXPECT_TRUE(Etag{}.empty());
  EXPECT_FALSE(fingerprint.empty());
  for (const char* bad : {"", "00", "zz0102030405060708090a0b0c0d0e0f", "000102030405060708090a0b0c0d0e0f00"}) {
    EXPECT_EQ(Etag::FromHex(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

// Of the published test vector of SHA-256 ("abc", FIPS 180-2).
TEST(Digest, Sha256OfTheStandard) {
  Sha256 hash;
  hash.Update("a");
  hash.Update(absl::string_view("bc"));
  Identity digest;
  digest.bytes = hash.Finish();
  EXPECT_EQ(digest.Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Digest, ChecksumsAreTheSameOnEveryInstructionSet) {
  std::vector<std::byte> bytes(70000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
  for (const size_t size : {0u, 1u, 16u, 17u, 128u, 240u, 241u, 1024u, 4096u, 65536u, 70000u}) {
    const uint64_t expected = internal::ChecksumBaseline(bytes.data(), size);
    EXPECT_EQ(Checksum64({bytes.data(), size}), expected);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
      EXPECT_EQ(internal::ChecksumAvx2(bytes.data(), size), expected);
    }
    if (__builtin_cpu_supports("avx512f")) {
      EXPECT_EQ(internal::ChecksumAvx512(bytes.data(), size), expected);
    }
#endif
  }
  // XXH3-64 of nothing, as xxhsum -H3 prints it.
  EXPECT_EQ(Checksum64({}), 0x2d06800538d394c2u);
}

TEST(Digest, EtagIsTheStoredFormat) {
  const std::vector<uint64_t> checksums = {1, 2, 0xffffffffffffffff};
  EXPECT_EQ(ComputeEtag("", checksums).Hex(), "8c3bed287fc4cd8e43bede0fc23c4aee");
  EXPECT_EQ(ComputeEtag("", {}).Hex(), "99aa06d3014798d86001c324468d497f");
  // One hash over both, wherever the fields end.
  const std::string bytes(reinterpret_cast<const char*>(checksums.data()), 24);
  EXPECT_EQ(ComputeEtag(absl::string_view(bytes).substr(0, 16), absl::MakeConstSpan(checksums).subspan(2)).Hex(),
            "8c3bed287fc4cd8e43bede0fc23c4aee");
}

}  // namespace
}  // namespace kvlink
