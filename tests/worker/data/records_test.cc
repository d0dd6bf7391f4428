// Arrays cut into their elements, whatever these hold and wherever buffers end.
#include "worker/data/records.h"

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"

namespace kvlink::data {
namespace {

using Json = nlohmann::json;

// Text that is hard to cut, of up to a few buffers.
std::string HardText(std::mt19937_64& random) {
  constexpr absl::string_view kHard = "[]{},:\"\\ \n\tx";
  std::string text(random() % 8 == 0 ? random() % 150000 : random() % 40, ' ');
  for (char& c : text) c = kHard[random() % kHard.size()];
  return text;
}

Json HardValue(std::mt19937_64& random, int depth) {
  switch (random() % (depth > 0 ? 5 : 3)) {
    case 0:
      return HardText(random);
    case 1:
      return static_cast<int64_t>(random());
    case 2:
      return nullptr;
    case 3: {
      Json array = Json::array();
      for (size_t i = random() % 4; i > 0; --i) array.push_back(HardValue(random, depth - 1));
      return array;
    }
    default: {
      Json object = Json::object();
      for (size_t i = random() % 4; i > 0; --i) object[HardText(random)] = HardValue(random, depth - 1);
      return object;
    }
  }
}

TEST(Records, ElementsAreThoseThatWereWritten) {
  const testing::ScratchDirectory directory;
  const std::string path = directory.path() + "/array.json";
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < (testing::Soak() ? 300 : 10); ++round) {
    Json array = Json::array();
    for (size_t i = random() % 30; i > 0; --i) array.push_back(HardValue(random, 3));
    std::ofstream(path, std::ios::binary)
        << (round % 2 == 0 ? "" : "\xef\xbb\xbf \n") << array.dump(round % 3 == 0 ? 2 : -1) << "\n ";
    const auto records = Records::Open(path, /*arrays=*/true, int64_t{1} << 30);
    ASSERT_TRUE(records.ok()) << records.status();
    for (size_t i = 0; i < array.size(); ++i) {
      const auto record = (*records)->Next();
      ASSERT_TRUE(record.ok()) << record.status();
      ASSERT_TRUE(record->has_value());
      EXPECT_EQ(Json::parse((*record)->text, nullptr, false), array[i]);
      EXPECT_EQ((*record)->where, absl::StrCat(path, ", element ", i + 1));
      EXPECT_FALSE((*record)->too_long);
    }
    const auto end = (*records)->Next();
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_FALSE(end->has_value());
  }
}

}  // namespace
}  // namespace kvlink::data
