// The secrets of sharing groups: a format, so its bytes do not change.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/escaping.h"
#include "worker/serve/service.h"

namespace kvlink::serve {
namespace {

TEST(SharingSecret, GoldenBytes) {
  EXPECT_EQ(SharingSecret("", ""), "");
  EXPECT_EQ(SharingSecret("secret", ""), "");
  EXPECT_EQ(absl::BytesToHexString(SharingSecret("", "team-a")),
            "783a39d52b81896825dfe26c4b55ebfd8482a79857fe3ef747df8f58a6644aed");
  EXPECT_EQ(absl::BytesToHexString(SharingSecret("0123456789abcdef", "team-a")),
            "cfee463e624a3eb9e4b8a6f267b97d25d0cb83871bc17d5ded0b2c6e1bfa55d3");
}

TEST(SharingSecret, DiffersWithSecretAndSalt) {
  const std::set<std::string> all = {SharingSecret("", "ab"), SharingSecret("a", "b"), SharingSecret("ab", "c"),
                                     SharingSecret("a", "bc"), SharingSecret("", "abc")};
  EXPECT_EQ(all.size(), 5);
}

}  // namespace
}  // namespace kvlink::serve
