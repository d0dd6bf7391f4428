#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace kvlink {
namespace {

absl::Status Through(const absl::Status& status, int* after) {
  KVLINK_RETURN_IF_ERROR(status);
  ++*after;
  return absl::OkStatus();
}

absl::StatusOr<int> Sum(absl::StatusOr<std::unique_ptr<int>> a, absl::StatusOr<int> b) {
  KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<int> first, std::move(a));
  KVLINK_ASSIGN_OR_RETURN(const int second, b);
  return *first + second;
}

TEST(StatusTest, ReturnIfErrorGoesOnOnlyWhenOk) {
  int after = 0;
  EXPECT_TRUE(Through(absl::OkStatus(), &after).ok());
  EXPECT_EQ(after, 1);
  EXPECT_EQ(Through(absl::DataLossError("bits"), &after), absl::DataLossError("bits"));
  EXPECT_EQ(after, 1);
}

TEST(StatusTest, AssignOrReturnMovesTheValueOrReturnsTheStatus) {
  EXPECT_EQ(Sum(std::make_unique<int>(2), 3).value(), 5);
  EXPECT_EQ(Sum(absl::NotFoundError("no"), 3).status(), absl::NotFoundError("no"));
  EXPECT_EQ(Sum(std::make_unique<int>(2), absl::AbortedError("b")).status(), absl::AbortedError("b"));
}

TEST(StatusTest, AnnotateSaysWhere) {
  EXPECT_EQ(Annotate(absl::NotFoundError("no such tensor"), "model.gguf"),
            absl::NotFoundError("model.gguf: no such tensor"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "anywhere").ok());
}

}  // namespace
}  // namespace kvlink
