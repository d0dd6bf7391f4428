// Builds of different protocols in one cluster: those with one in common work together, and a build without is refused
// by name. The rolling restart among the faults (faults.h) does the same under load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/data.h"
#include "tests/integration/cli_cluster.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class BuildsTest : public CliClusterTest {
 protected:
  // Makes NEXT_BUILD the build after the next, which no longer speaks this one's protocol.
  static SubprocessOptions AfterNext() { return {.environment = {"KVLINK_FORGETS=1"}}; }
  NodeProcess NextIn(const std::string& name, const SubprocessOptions& options = {}) const {
    return NodeProcess(Directory(name), {"--cluster", place_, "--capacity", "1G"}, options, NEXT_BUILD);
  }
  static Finished StatusBy(const std::string& program, const NodeProcess& node, const SubprocessOptions& options = {}) {
    return RunToEnd({program, "status", "--store", node.address()}, options);
  }
};

TEST_F(BuildsTest, AdjacentBuildsCooperateAndOthersAreRefused) {
  ASSERT_EQ(Kvlink({"cluster", "create", "--copies", "2"}).status, 0);
  NodeProcess here = NodeIn("here"), next = NextIn("next");
  ASSERT_TRUE(here.Start() && next.Start());
  for (const NodeProcess* node : {&here, &next}) {
    EXPECT_EQ(StatusBy(KVLINK_BINARY, *node).status, 0);
    EXPECT_EQ(StatusBy(NEXT_BUILD, *node).status, 0);
  }

  const std::string words = absl::StrCat("the client speaks protocol ", kProtocols.max + 1, ", and the node protocol ",
                                         kProtocols.max, ": upgrade the node");
  // Only the next build's node serves the build after the next, which cannot join a cluster with a node of this build.
  const Finished told = StatusBy(NEXT_BUILD, here, AfterNext());
  EXPECT_NE(told.status, 0);
  EXPECT_THAT(told.errors, AllOf(HasSubstr("kvlink-store status: "), HasSubstr(here.address()), HasSubstr(words)));
  EXPECT_EQ(StatusBy(NEXT_BUILD, next, AfterNext()).status, 0);
  const Finished refused =
      RunToEnd({NEXT_BUILD, "store", "--store", Directory("after"), "--listen", "127.0.0.1:0", "--cluster", place_},
               AfterNext());
  EXPECT_NE(refused.status, 0);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("kvlink-store store: "), HasSubstr(here.address()), HasSubstr(words)));
  EXPECT_EQ(Members()["members"].size(), 2u);

  // Once the last node of this build is gone, the build after the next joins; then this build is refused.
  EXPECT_EQ(here.Stop(), 0);
  NodeProcess after = NextIn("after", AfterNext());
  ASSERT_TRUE(after.Start());
  EXPECT_EQ(Member(after.address())["alive"], true);
  const Finished back = Kvlink({"store", "--store", Directory("here"), "--listen", here.address(), "--data", "none"});
  EXPECT_NE(back.status, 0);
  EXPECT_THAT(back.errors, AllOf(HasSubstr(after.address()), HasSubstr("upgrade the client")));
}

}  // namespace
}  // namespace kvlink::testing
