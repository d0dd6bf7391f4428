#include "proto/envelope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"

namespace kvlink {
namespace {

constexpr EnvelopeKind kKind{0x54534554, 2, 7, "test record"};  // "TEST"

TEST(Envelope, IsTheStoredFormat) {
  const std::string bytes = WrapEnvelope(kKind, "payload");
  EXPECT_EQ(absl::BytesToHexString(bytes), "5445535402070000070000007b8d2d5b7061796c6f6164");
  EXPECT_EQ(*OpenEnvelope(kKind, bytes), "payload");
  EXPECT_EQ(*OpenEnvelope(kKind, WrapEnvelope(kKind, "")), "");
}

TEST(Envelope, ReadsTheVersionBeforeAndRefusesOthersByName) {
  std::string bytes = WrapEnvelope(kKind, "payload");
  bytes[5] = 9;  // a newer minor version adds only what readers skip
  EXPECT_TRUE(OpenEnvelope(kKind, bytes).ok());
  bytes[4] = 1;
  EXPECT_TRUE(OpenEnvelope(kKind, bytes).ok());
  bytes[4] = 3;
  const absl::Status status = OpenEnvelope(kKind, bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("test record: format version 3.9"));
}

TEST(Envelope, AMajorThatBreaksRefusesTheOneBefore) {
  EnvelopeKind kind = kKind;
  kind.oldest = 2;
  std::string bytes = WrapEnvelope(kind, "payload");
  EXPECT_TRUE(OpenEnvelope(kind, bytes).ok());
  bytes[4] = 1;
  const absl::Status status = OpenEnvelope(kind, bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(),
            "test record: format version 1.7; this build reads version 2; use the build that wrote it");
}

TEST(Envelope, EveryFlippedByteIsFound) {
  const std::string bytes = WrapEnvelope(kKind, "the payload of a record");
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    if (i == 5) continue;  // the minor version is not checked
    EXPECT_FALSE(OpenEnvelope(kKind, damaged).ok()) << "byte " << i;
  }
}

TEST(Envelope, EveryTruncationAndAnythingBehindIsFound) {
  const std::string bytes = WrapEnvelope(kKind, "payload");
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_EQ(OpenEnvelope(kKind, bytes.substr(0, n)).status().code(), absl::StatusCode::kInvalidArgument) << n;
  }
  EXPECT_EQ(OpenEnvelope(kKind, bytes + "x").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvlink
