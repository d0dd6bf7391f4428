#include "worker/files/tensor_format.h"

#include <cmath>
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests_source_dir.h"
#include "worker/files/gguf.h"
#include "worker/files/mapped_file.h"

namespace kvlink::model {
namespace {

std::vector<float> Expand(const SourceTensor& tensor) {
  const TensorFormat* format = FindTensorFormat(tensor.type);
  const int64_t blocks = static_cast<int64_t>(tensor.bytes.size()) / format->block_bytes;
  std::vector<float> values(blocks * format->block_elements);
  format->expand(tensor.bytes.data(), blocks, values.data());
  return values;
}

// Random blocks of every type, expanded by the `gguf` package (tests/golden/make_dequant.py).
TEST(TensorFormat, EveryTypeExpandsAsTheReferenceDoes) {
  const auto mapped = MappedFile::Open(KVLINK_SOURCE_DIR "/tests/golden/dequant.gguf");
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  const auto file = GgufFile::Parse((*mapped)->bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  for (const char* name : {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "Q2_K",
                           "Q3_K", "Q4_K", "Q5_K", "Q6_K"}) {
    SCOPED_TRACE(name);
    const SourceTensor* tensor = file->FindTensor(name);
    const SourceTensor* reference = file->FindTensor(std::string(name) + ".expected");
    ASSERT_TRUE(tensor != nullptr && reference != nullptr);
    EXPECT_EQ(tensor->type, name);
    const std::vector<float> ours = Expand(*tensor), theirs = Expand(*reference);
    ASSERT_EQ(ours.size(), theirs.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      // A compiler may fuse the multiplication and the addition of the types with a minimum: half a unit in the last
      // place of the larger term.
      ASSERT_NEAR(ours[i], theirs[i], 1e-6 * (std::abs(theirs[i]) + 1)) << "element " << i;
    }
  }
}

TEST(TensorFormat, HalvesAreExact) {
  const TensorFormat* half = FindTensorFormat("F16");
  const auto expand = [&](uint16_t bits) {
    float value;
    half->expand(reinterpret_cast<const std::byte*>(&bits), 1, &value);
    return value;
  };
  EXPECT_EQ(expand(0x3c00), 1.0f);
  EXPECT_EQ(expand(0x0001), 0x1p-24f);
  EXPECT_EQ(expand(0x03ff), 0x1.ff8p-15f);
  EXPECT_EQ(expand(0x0400), 0x1p-14f);
  EXPECT_EQ(expand(0xfbff), -65504.0f);
  EXPECT_TRUE(std::signbit(expand(0x8000)));
  EXPECT_EQ(expand(0x7c00), INFINITY);
  EXPECT_EQ(expand(0xfc00), -INFINITY);
  EXPECT_TRUE(std::isnan(expand(0x7c01)));
}

template <typename Bits>
float ExpandOne(const char* format, Bits bits) {
  float value;
  FindTensorFormat(format)->expand(reinterpret_cast<const std::byte*>(&bits), 1, &value);
  return value;
}

TEST(TensorFormat, EightBitFloatsAndDoubles) {
  const auto e4m3 = [](uint8_t bits) { return ExpandOne("F8_E4M3", bits); };
  EXPECT_EQ(e4m3(0x38), 1.0f);
  EXPECT_EQ(e4m3(0xb9), -1.125f);
  EXPECT_EQ(e4m3(0x7e), 448.0f);  // the largest
  EXPECT_EQ(e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(e4m3(0x08), 0x1p-6f);
  EXPECT_TRUE(std::signbit(e4m3(0x80)));
  EXPECT_TRUE(std::isnan(e4m3(0x7f)) && std::isnan(e4m3(0xff)));
  const auto e5m2 = [](uint8_t bits) { return ExpandOne("F8_E5M2", bits); };
  EXPECT_EQ(e5m2(0x3c), 1.0f);
  EXPECT_EQ(e5m2(0xfb), -57344.0f);
  EXPECT_EQ(e5m2(0x01), 0x1p-16f);
  EXPECT_EQ(e5m2(0x7c), INFINITY);
  EXPECT_TRUE(std::isnan(e5m2(0x7d)));
  EXPECT_EQ(ExpandOne("F64", -0.1), -0.1f);
}

TEST(TensorFormat, UnknownTypesAreNotFound) {
  EXPECT_EQ(FindTensorFormat("IQ2_S"), nullptr);
  EXPECT_EQ(FindGgmlTensorFormat(22), nullptr);
  EXPECT_EQ(FindGgmlTensorFormat(0xffffffff), nullptr);
  EXPECT_EQ(GgmlTypeName(22), "IQ2_S");
  EXPECT_EQ(GgmlTypeName(12), "Q4_K");
  EXPECT_EQ(GgmlTypeName(30), "BF16");
}

}  // namespace
}  // namespace kvlink::model
