#include "worker/encode/stored_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvlink::encode {
namespace {

using ::testing::HasSubstr;

TEST(DocumentParts, ARangeStandsBehindTheLastEqualsSign) {
  const auto one = ParseDocumentParts("moon=3");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->id, "moon");
  EXPECT_EQ(one->first, 3);
  EXPECT_EQ(one->last, 3);
  const auto some = ParseDocumentParts("a=b=2-5@1-4#7=2-5");
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ(some->id, "a=b=2-5@1-4#7");
  EXPECT_EQ(some->first, 2);
  EXPECT_EQ(some->last, 5);
  const auto open = ParseDocumentParts("moon=2-");
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->first, 2);
  EXPECT_FALSE(open->last.has_value());
  for (const char* text : {"moon=3", "a=b=2-5@1-4#7=2-5", "moon=2-"})
    EXPECT_EQ(Spelled(*ParseDocumentParts(text)), text);
  EXPECT_EQ(Spelled({.id = "moon"}), "moon");
}

TEST(DocumentParts, RefusesWhatIsNoRange) {
  for (const char* text : {"", "moon", "=2", "moon=", "moon=0", "moon=-2", "moon=5-2", "moon=2-0", "moon=x",
                           "moon=1-2-3", "moon=1,2", "moon= 1", "moon=+1", "moon=99999999999"}) {
    EXPECT_EQ(ParseDocumentParts(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(DocumentParts, PartsOfAnEntry) {
  CatalogEntry entry;
  for (int32_t i = 1; i <= 3; ++i) entry.parts.push_back({{}, {i}});
  EXPECT_EQ(PartsOf(entry, {.id = "moon"})->size(), 3u);
  EXPECT_EQ(*PartsOf(entry, {.id = "moon", .first = 2}), (std::vector<std::vector<int32_t>>{{2}, {3}}));
  EXPECT_EQ(*PartsOf(entry, {.id = "moon", .first = 2, .last = 2}), (std::vector<std::vector<int32_t>>{{2}}));
  const absl::Status none = PartsOf(entry, {.id = "moon", .first = 2, .last = 4}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(none.message()), HasSubstr("'moon' has 3 parts; there is no part 4"));
}

TEST(CheckEntry, AnEntryOfAnotherModelIsRefusedByName) {
  CatalogEntry entry;
  Fingerprint fingerprint;
  EXPECT_TRUE(CheckEntry("a", entry, fingerprint, "", {}).ok());
  fingerprint.bytes[0] = 0xab;
  const absl::Status status = CheckEntry("some id", entry, fingerprint, "", {});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'some id'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--model"));
}

TEST(CheckEntry, AnEntryOfAnotherSecretIsRefusedByName) {
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

TEST(CheckEntry, AnEntryInsideAnotherWrapperIsOfTheSameSecret) {
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
}  // namespace kvlink::encode
