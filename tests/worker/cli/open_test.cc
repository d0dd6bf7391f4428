#include "worker/cli/open.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvlink::cli {
namespace {

using ::testing::HasSubstr;

TEST(Open, AnEntryOfAnotherModelIsRefusedByName) {
  CatalogEntry entry;
  Fingerprint fingerprint;
  EXPECT_TRUE(CheckEntry("a", entry, fingerprint, "", {}).ok());
  fingerprint.bytes[0] = 0xab;
  const absl::Status status = CheckEntry("some id", entry, fingerprint, "", {});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'some id'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--model"));
}

TEST(Open, AnEntryOfAnotherSecretIsRefusedByName) {
  const std::string secrets[] = {"", "sixteen bytes, 01", "sixteen bytes, 02"};
  const std::vector<int32_t> tokens = {1, 2, 3};
  for (const std::string& written : secrets) {
    CatalogEntry entry;
    entry.parts.push_back({ComputeIdentity({entry.model, "", tokens}, written), tokens});
    for (const std::string& read : secrets) {
      const absl::Status status = CheckEntry("some id", entry, entry.model, read, {});
      EXPECT_EQ(status.code(), read == written ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition);
      if (status.ok()) continue;
      const char* const what = read.empty()      ? "with a tenant secret; name its file with --secret-file"
                               : written.empty() ? "without a tenant secret; leave out --secret-file"
                                                 : "with another tenant secret";
      EXPECT_THAT(std::string(status.message()), HasSubstr(what));
      EXPECT_THAT(std::string(status.message()), HasSubstr("'some id'"));
    }
  }
}

TEST(Open, AnEntryInsideAnotherWrapperIsOfTheSameSecret) {
  const std::vector<int32_t> tokens = {1, 2, 3};
  const std::string secret = "sixteen bytes, 01", wrapper(32, 'w');
  CatalogEntry entry;
  entry.context_digest = wrapper;
  entry.parts.push_back({ComputeIdentity({entry.model, wrapper, tokens}, secret), tokens});
  EXPECT_TRUE(CheckEntry("a", entry, entry.model, secret, {}).ok());
  EXPECT_FALSE(CheckEntry("a", entry, entry.model, "", {}).ok());
  // A node of an earlier build keeps no context digest.
  entry.context_digest = "";
  EXPECT_TRUE(CheckEntry("a", entry, entry.model, secret, {.digest = wrapper}).ok());
  EXPECT_FALSE(CheckEntry("a", entry, entry.model, secret, {.digest = std::string(32, 'v')}).ok());
}

}  // namespace
}  // namespace kvlink::cli
