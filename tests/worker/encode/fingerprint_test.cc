#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/tiny_model.h"
#include "worker/encode/encoder.h"

namespace kvlink::encode {
namespace {

namespace fs = std::filesystem;

class FingerprintTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("fingerprint_" + std::to_string(getpid()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string Make(const std::string& name, const testing::TinyModelOptions& options) {
    const std::string directory = (root_ / name).string();
    EXPECT_TRUE(testing::WriteTinyModel(directory, options).ok());
    return directory;
  }
  static Fingerprint Of(const std::string& path, bool use_cache = false) {
    const auto weights = model::OpenWeights(path);
    EXPECT_TRUE(weights.ok()) << weights.status();
    const auto fingerprint = FingerprintOf(**weights, use_cache);
    EXPECT_TRUE(fingerprint.ok()) << fingerprint.status();
    return *fingerprint;
  }
  std::vector<fs::path> Caches() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      if (entry.path().extension() == ".kvlink-fingerprint") found.push_back(entry.path());
    }
    return found;
  }

  fs::path root_;
};

TEST_F(FingerprintTest, IsThatOfTheModelAndNotOfItsPath) {
  const Fingerprint one = Of(Make("one", {}));
  EXPECT_FALSE(one.empty());
  EXPECT_TRUE(one == Of(Make("another", {})));
  testing::TinyModelOptions other_weights;
  other_weights.seed = 2;
  EXPECT_FALSE(one == Of(Make("weights", other_weights)));
  testing::TinyModelOptions other_rope;
  other_rope.rope_theta = 20000;
  EXPECT_FALSE(one == Of(Make("rope", other_rope)));
}

TEST_F(FingerprintTest, OneChangedByteOfAWeightChangesIt) {
  const std::string path = Make("model", {});
  const Fingerprint before = Of(path);
  std::fstream file(path + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  const char last = static_cast<char>(file.peek() ^ 1);
  file.seekp(-1, std::ios::end);
  file.put(last);
  file.close();
  EXPECT_FALSE(before == Of(path));
}

// The formats fix the number, which is part of every identity. A change here makes every store a miss.
TEST_F(FingerprintTest, StaysWhatItWas) {
  EXPECT_EQ(Of(Make("model", {})).Hex(), "1e93db291f27fa74b8b5494b2ac822d01229bdb898467172b43adf2f8d46dbb9");
}

TEST_F(FingerprintTest, TheCacheAnswersForTheSameFilesOnly) {
  const std::string path = Make("model", {});
  const Fingerprint computed = Of(path, true);
  ASSERT_EQ(Caches().size(), 1u);
  // A cache that says something else shows that it is asked.
  const fs::path cache = Caches()[0];
  EXPECT_TRUE(Of(path, true) == computed);
  testing::TinyModelOptions other;
  other.seed = 2;
  ASSERT_TRUE(testing::WriteTinyModel(path, other).ok());
  fs::last_write_time(path + "/model.safetensors", fs::file_time_type::clock::now() + std::chrono::seconds(5));
  EXPECT_FALSE(Of(path, true) == computed);
  EXPECT_TRUE(Of(path, true) == Of(path, false));
}

TEST_F(FingerprintTest, TheCacheIsReadAndADamagedOneIsNot) {
  const std::string path = Make("model", {});
  const Fingerprint computed = Of(path, true);
  ASSERT_EQ(Caches().size(), 1u);
  const std::string cache = Caches()[0].string();
  // Change the weights behind the cache's back: same inode, size and times. Only a cache that is read hides that.
  struct stat before;
  ASSERT_EQ(stat((path + "/model.safetensors").c_str(), &before), 0);
  {
    std::fstream file(path + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x55');
  }
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, (path + "/model.safetensors").c_str(), times, 0), 0);
  EXPECT_TRUE(Of(path, true) == computed);
  EXPECT_FALSE(Of(path, false) == computed);
  for (const int64_t position : {0, 8, 20, 60, 79}) {
    std::fstream file(cache, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(position);
    const char flipped = static_cast<char>(file.get() ^ 4);
    file.seekp(position);
    file.put(flipped);
    file.close();
    EXPECT_TRUE(Of(path, true) == Of(path, false)) << position;
  }
  for (const int64_t size : {0, 10, 79}) {
    fs::resize_file(cache, size);
    EXPECT_TRUE(Of(path, true) == Of(path, false)) << size;
  }
}

TEST_F(FingerprintTest, ACacheThatCannotBeWrittenIsNoError) {
  const std::string path = Make("model", {});
  // A directory stands where the cache would be renamed to.
  const Fingerprint computed = Of(path, true);
  const fs::path cache = Caches()[0];
  fs::remove(cache);
  fs::create_directory(cache);
  std::ofstream(cache / "occupied") << "x";
  EXPECT_TRUE(Of(path, true) == computed);
  for (const auto& entry : fs::directory_iterator(path)) {
    EXPECT_TRUE(entry.path() == cache || entry.path().string().find("kvlink-fingerprint") == std::string::npos)
        << entry.path();
  }
}

}  // namespace
}  // namespace kvlink::encode
