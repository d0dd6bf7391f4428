// Pictures by the real gnuplot, where it is installed.
#include "base/cli/gnuplot.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(Gnuplot, StringsAreQuoted) {
  EXPECT_EQ(GnuplotString("it's"), "'it''s'");
  EXPECT_EQ(GnuplotString("a\nb\t\\n`c`"), "'a b \\n`c`'");
}

TEST(Gnuplot, DrawsAndExecutesNothingElse) {
  if (!FindGnuplot().ok()) GTEST_SKIP() << FindGnuplot();
  const testing::ScratchDirectory directory;
  const std::string path = directory.path() + "/picture.png", trap = directory.path() + "/trap";
  const std::string label =
      absl::StrCat("`touch ", trap, "` ' ; system(\"touch ", trap, "\")\nsystem('touch ", trap, "')");
  const std::string script =
      absl::StrCat("set label ", GnuplotString(label), " at 1,1\nplot x title ", GnuplotString(label), "\n");
  const absl::Status drawn = DrawPng(script, 320, 240, path);
  ASSERT_TRUE(drawn.ok()) << drawn;
  const std::string picture = Bytes(path);
  EXPECT_THAT(picture, StartsWith("\x89PNG\r\n"));
  EXPECT_EQ(picture.substr(picture.size() - 8, 4), "IEND") << "complete";
  EXPECT_FALSE(std::filesystem::exists(trap));

  const absl::Status bad = DrawPng("plot nonsense(\n", 320, 240, path);
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument) << bad;
  EXPECT_THAT(std::string(bad.message()), HasSubstr("gnuplot failed"));
  EXPECT_EQ(Bytes(path), picture) << "the picture from before stays";
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  EXPECT_THAT(std::string(DrawPng(script, 320, 240, directory.path() + "/no/picture.png").message()),
              HasSubstr("/no/picture.png"));
}

TEST(Gnuplot, IsMissedByName) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const absl::Status missing = FindGnuplot();
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("install gnuplot-nox"));
}

}  // namespace
}  // namespace kvlink::cli
