#include "worker/encode/wrapper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/support/safetensors_bytes.h"

namespace kvlink::encode {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::F32Tensor;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::SafetensorsBytes;

// A profile with a wrapper for a model that is two elements wide.
class WrapperTest : public ::testing::Test {
 protected:
  WrapperTest() {
    config_.hidden = 2;
    config_.context = 16;
    profile_.name = "mine";
    profile_.wrapper = {(directory_ / "wrapper.safetensors").string(), 1, 2};
    std::filesystem::create_directories(directory_);
  }
  ~WrapperTest() override { std::filesystem::remove_all(directory_); }
  void WriteBytes(const std::string& bytes) const {
    std::ofstream(profile_.wrapper->file, std::ios::binary | std::ios::trunc) << bytes;
  }
  void ExpectRefused(const std::vector<std::string>& says) const {
    const absl::Status status = LoadWrapper(profile_, config_).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), AllOf(HasSubstr("link profile 'mine': "), Not(HasSubstr("\n"))));
    for (const std::string& part : says) EXPECT_THAT(status.message(), HasSubstr(part));
  }

  const std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("wrapper_", getpid());
  model::ModelConfig config_;
  link::LinkProfile profile_;
  const std::string good_ = SafetensorsBytes(
      {F32Tensor("wrapper_trailer", {2, 2}, {2, 0.25, -3, 8}), F32Tensor("wrapper_header", {1, 2}, {0.5, -1})});
};

// What the digest covers is a stored format.
TEST_F(WrapperTest, DigestCoversShapeAndElements) {
  WriteBytes(good_);
  const auto wrapper = LoadWrapper(profile_, config_);
  ASSERT_TRUE(wrapper.ok()) << wrapper.status();
  EXPECT_EQ(wrapper->header, 1);
  EXPECT_EQ(wrapper->trailer, 2);
  EXPECT_THAT(wrapper->embeddings, ElementsAre(0.5, -1, 2, 0.25, -3, 8));
  EXPECT_EQ(WrapperName(wrapper->digest), "1fc6f6a11952c0b67f347188a7a97005ea4a83b2b01d7cf1d5186b8fe5eb3adf");
  EXPECT_EQ(MakeWrapper(1, 2, wrapper->embeddings).digest, wrapper->digest);
  EXPECT_NE(MakeWrapper(2, 1, wrapper->embeddings).digest, wrapper->digest);
  EXPECT_NE(MakeWrapper(1, 2, {0.5, -1, 2, 0.25, -3, 9}).digest, wrapper->digest);
  EXPECT_NE(MakeWrapper(1, 0, {0.5, -1, 2, 0.25, -3, 8}).digest, MakeWrapper(1, 1, {0.5, -1, 2, 0.25, -3, 8}).digest);
  EXPECT_EQ(WrapperName(""), "none");
}

TEST_F(WrapperTest, TheSameElementsInAnotherTypeAreTheSameWrapper) {
  WriteBytes(good_);
  const std::string digest = LoadWrapper(profile_, config_)->digest;
  WriteBytes(SafetensorsBytes({{"wrapper_header", {1, 2}, absl::HexStringToBytes("003f80bf"), "BF16"},
                               {"wrapper_trailer", {2, 2}, absl::HexStringToBytes("0040803e40c00041"), "BF16"},
                               F32Tensor("link_embeddings", {1, 2}, {7, 7})}));
  EXPECT_EQ(LoadWrapper(profile_, config_)->digest, digest);
  WriteBytes(SafetensorsBytes({{"wrapper_header", {1, 2}, absl::HexStringToBytes("003800bc"), "F16"},
                               {"wrapper_trailer", {2, 2}, absl::HexStringToBytes("0040003400c20048"), "F16"}}));
  EXPECT_EQ(LoadWrapper(profile_, config_)->digest, digest);
}

TEST_F(WrapperTest, HeaderOrTrailerMayBeMissing) {
  WriteBytes(SafetensorsBytes({F32Tensor("wrapper_header", {1, 2}, {0.5, -1})}));
  profile_.wrapper->trailer = 0;
  EXPECT_THAT(LoadWrapper(profile_, config_)->embeddings, ElementsAre(0.5, -1));
  WriteBytes(
      SafetensorsBytes({F32Tensor("wrapper_trailer", {1, 2}, {0.5, -1}), F32Tensor("wrapper_header", {0, 2}, {})}));
  profile_.wrapper->header = 0;
  profile_.wrapper->trailer = 1;
  EXPECT_THAT(LoadWrapper(profile_, config_)->embeddings, ElementsAre(0.5, -1));
  profile_.wrapper.reset();
  EXPECT_EQ(LoadWrapper(profile_, config_)->tokens(), 0);
  EXPECT_EQ(LoadWrapper(profile_, config_)->digest, "");
}

TEST_F(WrapperTest, WhatDoesNotFitIsNamedByFieldFileAndShape) {
  const std::string& file = profile_.wrapper->file;
  ExpectRefused({"'wrapper.header'", file, "cannot open"});
  for (const size_t size : {size_t{0}, size_t{7}, size_t{20}, good_.size() - 1}) {
    WriteBytes(good_.substr(0, size));
    ExpectRefused({"'wrapper.header'", file});
  }
  WriteBytes(SafetensorsBytes({F32Tensor("wrapper_header", {1, 2}, {0.5, -1})}));
  ExpectRefused({"'wrapper.trailer'", file, "no tensor 'wrapper_trailer'; one of shape [2, 2]"});
  WriteBytes(good_);
  profile_.wrapper->header = 3;
  ExpectRefused({"'wrapper.header'", file, "'wrapper_header' is [1, 2], but the profile and this model need [3, 2]"});
  profile_.wrapper->header = 0;  // and the file has one
  ExpectRefused({"'wrapper.header'", "[0, 2]"});
  profile_.wrapper->header = 1;
  config_.hidden = 4;
  ExpectRefused({"'wrapper_header' is [1, 2]", "[1, 4]; the profile belongs to another model"});
  config_.hidden = 2;
  config_.context = 3;
  ExpectRefused({"'wrapper' has 3 tokens, the model's context is 3"});
  config_.context = 16;
  WriteBytes(SafetensorsBytes(
      {F32Tensor("wrapper_header", {1, 2}, {0.5, -1}), F32Tensor("wrapper_trailer", {2, 2}, {2, 1, NAN, 1})}));
  ExpectRefused({"'wrapper.trailer'", file, "nan in row 1"});
  WriteBytes(SafetensorsBytes({{"wrapper_header", {1, 2}, std::string(16, '\0'), "I64"}}));
  ExpectRefused({"'wrapper_header' has type I64", "F32, F16 or BF16"});
}

}  // namespace
}  // namespace kvlink::encode
