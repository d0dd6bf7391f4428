// kvlink delete --unpin, on a node in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "store/cli/commands.h"
#include "tests/store/node/one_node.h"

namespace kvlink::cli {
namespace {

using ::testing::HasSubstr;

class UnpinTest : public testing::OneNodeTest {
 protected:
  absl::Status Unpin(const std::string& ns) {
    std::vector<std::string> arguments = {"--store", (*node_)->addresses().control, "--namespace", ns, "--unpin"};
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    ::testing::internal::CaptureStdout();
    const absl::Status status = RunDelete(words);
    output_ = ::testing::internal::GetCapturedStdout();
    return status;
  }
  int64_t Pinned() const { return control_->Stats()->values().at("pinned_encodings"); }
  std::string output_;
};

TEST_F(UnpinTest, ReleasesThePinsOfANamespaceAndNothingElse) {
  StartNode();
  const auto data = Connect();
  for (int i = 0; i < 3; ++i) {
    const testing::Synthetic encoding = testing::MakeSynthetic(i);
    const std::string ns = i < 2 ? "a" : "b";
    ASSERT_TRUE(data->Push(ns, encoding).ok());
    ASSERT_TRUE(data->Act(ns, proto::EncodingAction::PIN, {encoding.manifest.identity}).ok());
  }
  ASSERT_EQ(Pinned(), 3);
  EXPECT_EQ(Unpin("a"), absl::OkStatus());
  EXPECT_THAT(output_, HasSubstr("namespace a: 2 pins released"));
  EXPECT_EQ(Pinned(), 1);
  EXPECT_NE((*data->Lookup("a", {testing::MakeSynthetic(0).manifest.identity}))[0].tier, 0) << "it is deleted";
}

}  // namespace
}  // namespace kvlink::cli
