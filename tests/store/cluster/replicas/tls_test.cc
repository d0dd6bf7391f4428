// TLS files that are not whole when the first request goes to a node.
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/certificates.h"
#include "tests/support/patience.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;

TEST(ReplicatedTlsTest, FilesThatAreNotWholeAreReadAgain) {
  if (!HaveOpenssl()) GTEST_SKIP() << "no openssl here";
  const ScratchDirectory scratch(/*in_memory=*/true);
  ASSERT_TRUE(MakeCertificates(scratch.path()));
  const auto file = [&](const std::string& name) { return scratch.path() + "/" + name; };
  const auto install = [&](const std::string& key) {
    std::filesystem::copy_file(file(key), file("own.key"), std::filesystem::copy_options::overwrite_existing);
  };
  // As in the middle of a renewal: the certificate is new, the key old.
  install("node.key");
  ClusterPlace place({.nodes = 2,
                      .node =
                          [&](int /*number*/, store::node::NodeOptions* node) {
                            node->tls = {file("ca.pem"), file("node.pem"), file("node.key")};
                          },
                      .client =
                          [&](store::cluster::ReplicatedOptions* client) {
                            client->node.tls = {file("ca.pem"), file("client.pem"), file("own.key")};
                          }});
  const Synthetic one = MakeSynthetic(1);
  const auto look_up = [&] {
    return place.store()->Lookup("ns", {one.manifest.identity}, one.manifest.codec).status();
  };
  const absl::Status early = look_up();
  EXPECT_TRUE(absl::IsInvalidArgument(early)) << early;
  EXPECT_THAT(std::string(early.message()), HasSubstr(file("own.key") + " does not belong to the certificate"));
  install("client.key");
  absl::Status late = look_up();
  for (const absl::Time deadline = Patience(); !late.ok() && SteadyNow() < deadline; late = look_up()) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(late, absl::OkStatus());
  EXPECT_EQ(place.store()->Put("ns", one.manifest, one.spans(), Patience()).status(), absl::OkStatus());
  EXPECT_EQ(ReadAndCompare(place.store(), "ns", one), absl::OkStatus());
}

}  // namespace
}  // namespace kvlink::testing
