#include "worker/cli/document_parts.h"

#include <gtest/gtest.h>

namespace kvlink::cli {
namespace {

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

}  // namespace
}  // namespace kvlink::cli
