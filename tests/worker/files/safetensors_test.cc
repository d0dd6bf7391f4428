#include "worker/files/safetensors.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/files/gguf_builder.h"

namespace kvlink::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string bytes(reinterpret_cast<const char*>(&size), 8);
  return bytes + header + std::string(data_bytes, '\1');
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape, uint64_t begin,
                  uint64_t end) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ",",
                      end, "]}");
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirData) {
  const std::string bytes =
      File(absl::StrCat("{\"__metadata__\":{\"format\":\"pt\"},", Entry("b", "BF16", "[2,3]", 8, 20), ",",
                        Entry("a", "F32", "[2]", 0, 8), ",", Entry("e", "I64", "[0]", 8, 8), "}   "),
           20);
  const auto tensors = ParseSafetensors(AsBytes(bytes));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].name, "e");
  EXPECT_EQ((*tensors)[2].name, "b");
  EXPECT_EQ((*tensors)[2].type, "BF16");
  EXPECT_THAT((*tensors)[2].shape, ElementsAre(2, 3));
  EXPECT_EQ((*tensors)[2].bytes.size(), 12u);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string bytes = File(absl::StrCat("{", Entry("a", "F32", "[2]", 0, 8), "}"), 8);
  ASSERT_TRUE(ParseSafetensors(AsBytes(bytes)).ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string prefix = bytes.substr(0, size);
    EXPECT_FALSE(ParseSafetensors(AsBytes(prefix)).ok()) << size;
  }
}

TEST(Safetensors, HostileHeadersAreRefusedInOneLine) {
  const auto one = [](const std::string& entry, size_t data) { return File("{" + entry + "}", data); };
  const std::string a = Entry("a", "F32", "[2]", 0, 8);
  const std::pair<std::string, const char*> cases[] = {
      {std::string(8, '\xff'), "truncated"},
      {File("", 8), "not a JSON object"},
      {File("[1]", 8), "not a JSON object"},
      {File("{\"a\":", 8), "not JSON"},
      {File("{} {}", 0), "not JSON"},
      {File("{\"a\":{\"dtype\":\"F32\",\"shape\":[\xff]}}", 8), "not JSON"},
      {one("\"a\":3", 0), "out of place"},
      {one("\"a\":{}", 0), "lacks dtype"},
      {one("\"a\":{\"dtype\":\"F32\"}", 0), "lacks dtype"},
      {one("\"a\":{\"dtype\":[1],\"shape\":[],\"data_offsets\":[0,4]}", 4), "out of place"},
      {one("\"a\":{\"shape\":{},\"dtype\":\"F32\"}", 4), "too deep"},
      {one("\"a\":{\"shape\":[[1]]}", 4), "out of place"},
      {one("\"a\":{\"weight\":1}", 4), "unknown key weight"},
      {one("\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}", 4), "negative"},
      {one("\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}", 4), "fraction"},
      {one("\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}", 4), "more than 8"},
      {one(Entry("a", "F32", "[4611686018427387904,4]", 0, 8), 8), "implausible"},
      {one(Entry("a", "F32", "[1099511627776,1099511627776]", 0, 8), 8), "implausible"},
      {one(Entry("a", "F32", "[2]", 0, 9), 9), "its shape needs 8"},
      {one(Entry("a", "F32", "[2]", 8, 0), 8), "lies at"},
      {one(Entry("a", "F32", "[2]", 0, 8), 7), "truncated"},
      {one(Entry("a", "Q9", "[2]", 0, 8), 8), "dtype Q9"},
      {one(Entry("", "F32", "[2]", 0, 8), 8), "no name"},
      {one(a + "," + a, 8), "same name twice"},
      {one(a + "," + Entry("b", "F32", "[2]", 4, 12), 12), "one before it ends at 8"},
      {one(a + "," + Entry("b", "F32", "[1]", 12, 16), 16), "one before it ends at 8"},
      {one(a, 12), "belong to no tensor"},
      {one("\"a\\n\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]}", 9), "a\\n"},
      {File("{\"a\":" + std::string(100000, '['), 0), "out of place"},
  };
  for (const auto& [bytes, message] : cases) {
    const absl::Status status = ParseSafetensors(AsBytes(bytes)).status();
    EXPECT_FALSE(status.ok()) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << message;
  }
}

}  // namespace
}  // namespace kvlink::model
