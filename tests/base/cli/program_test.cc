// Behaviour common to all commands: exit statuses and output.
#include "base/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/cli/exit_status.h"
#include "base/cli/standard_streams.h"

namespace kvlink::cli {
namespace {

TEST(ExitStatus, TellsUsageNotFoundRefusedUnavailableAndDamageApart) {
  const std::pair<absl::Status, int> cases[] = {
      {absl::OkStatus(), 0},
      {absl::AbortedError(""), 1},
      {absl::InternalError(""), 1},
      {absl::InvalidArgumentError(""), 2},
      {absl::NotFoundError(""), 3},
      {absl::PermissionDeniedError(""), 4},
      {absl::UnauthenticatedError(""), 4},
      {absl::FailedPreconditionError(""), 4},
      {absl::UnavailableError(""), 5},
      {absl::DeadlineExceededError(""), 5},
      {absl::DataLossError(""), 6},
      {absl::ResourceExhaustedError(""), 7},
      {absl::CancelledError(""), 130},
  };
  for (const auto& [status, expected] : cases) EXPECT_EQ(ExitStatusOf(status), expected) << status;
}

TEST(Printable, NothingReachesTheTerminalThatItWouldObey) {
  EXPECT_EQ(Printable("plain, caf\xc3\xa9 and \xe6\x97\xa5\xe6\x9c\xac"),
            "plain, caf\xc3\xa9 and \xe6\x97\xa5\xe6\x9c\xac");
  EXPECT_EQ(Printable("a\x1b[2Jb\nc\x7f"), "a\\x1b[2Jb\\x0ac\\x7f");
  EXPECT_EQ(Printable("x\xe2\x80\xaey"), "x\\u202ey");  // right-to-left override
  EXPECT_EQ(Printable("\xc2\x9b"
                      "2J"),
            "\\u009b2J");  // CSI in one code point
  EXPECT_EQ(Printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(Printable("\xc3("), "\\xc3(");
}

TEST(OneLine, SaysNothingTwice) {
  EXPECT_EQ(OneLine("kvlink ask", "a.gz: a.gz: damaged"), "kvlink ask: a.gz: damaged");
  EXPECT_EQ(OneLine("a.gz", "a.gz: damaged"), "a.gz: damaged");
  EXPECT_EQ(OneLine("x", "127.0.0.1:1: 127.0.0.1:1: no\nanswer"), "x: 127.0.0.1:1: no answer");
  EXPECT_EQ(OneLine("x", "a: b: a: b"), "x: a: b: a: b");
  EXPECT_EQ(OneLine("x", ""), "x: ");
}

}  // namespace
}  // namespace kvlink::cli
