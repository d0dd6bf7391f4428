// Of a stream of reads, which encodings the sketch finds, and how close its rates come.
#include "store/node/read_rates.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/seed.h"

namespace kvlink::store::node {
namespace {

using ::kvlink::testing::TestSeed;

engine::EncodingKey KeyOf(int number) {
  engine::EncodingKey key{number % 2 == 0 ? "a" : "b", {}, number % 3 == 0 ? Codec::kQ8 : Codec::kRawBf16};
  std::mt19937_64 random(static_cast<uint64_t>(number / 6));  // some differ in namespace or codec alone
  for (uint8_t& byte : key.identity.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

TEST(ReadRates, ASteadyRateIsFoundAndFades) {
  const absl::Duration half_life = absl::Seconds(2);
  ReadRates rates(half_life);
  absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  EXPECT_TRUE(rates.Now(now).encodings.empty());
  for (int i = 0; i < 40000; ++i) {
    now += absl::Milliseconds(10);
    rates.Add(KeyOf(i % 4 == 0 ? 1 : 2), 1000, now);
  }
  ReadRates::Snapshot snapshot = rates.Now(now);
  ASSERT_EQ(snapshot.encodings.size(), 2u);
  EXPECT_EQ(snapshot.encodings[0].key, KeyOf(2));
  EXPECT_NEAR(snapshot.encodings[0].reads_per_second, 75, 2);
  EXPECT_NEAR(snapshot.encodings[0].bytes_per_second, 75000, 2000);
  EXPECT_NEAR(snapshot.encodings[1].bytes_per_second, 25000, 2000);
  EXPECT_NEAR(snapshot.bytes_per_second, 100000, 1000);
  const double before = snapshot.bytes_per_second;
  for (int i = 1; i <= 3; ++i) {
    snapshot = rates.Now(now + i * half_life);
    EXPECT_NEAR(snapshot.bytes_per_second, before / (1 << i), 1);
  }
  // After a long time, and only then, nothing of it is left.
  now += absl::Hours(24 * 365);
  EXPECT_NEAR(rates.Now(now).bytes_per_second, 0, 1e-6);
  rates.Add(KeyOf(3), 1000, now);
  EXPECT_EQ(rates.Now(now).encodings[0].key, KeyOf(3));
  EXPECT_NEAR(rates.Now(now).bytes_per_second, 1000 * 0.3466, 1);
}

// Whatever else is read: thousands of others, each a little.
TEST(ReadRates, WhatIsMoreThanASixtyFourthIsFoundAndNothingIsOverrated) {
  std::mt19937_64 random(TestSeed());
  ReadRates rates(absl::Seconds(10));
  absl::Time now = absl::UnixEpoch();
  std::map<engine::EncodingKey, double> bytes;
  double all = 0;
  for (int i = 0; i < 200000; ++i) {
    now += absl::Microseconds(random() % 20);
    const int number = random() % 10 < 4 ? static_cast<int>(random() % 8) : 8 + static_cast<int>(random() % 5000);
    const auto size = static_cast<int64_t>(1 + random() % 100000);
    rates.Add(KeyOf(number), size, now);
    bytes[KeyOf(number)] += static_cast<double>(size);
    all += static_cast<double>(size);
  }
  // In so short a time little has faded: rates are in proportion to the bytes.
  const ReadRates::Snapshot snapshot = rates.Now(now);
  EXPECT_EQ(snapshot.encodings.size(), ReadRates::kEntries);
  std::map<engine::EncodingKey, double> found;
  for (const auto& rate : snapshot.encodings) {
    found[rate.key] = rate.bytes_per_second / snapshot.bytes_per_second;
    EXPECT_LE(found[rate.key], 1.25 * bytes[rate.key] / all);
  }
  for (int number = 0; number < 8; ++number) {
    EXPECT_GT(found[KeyOf(number)], 0.6 * bytes[KeyOf(number)] / all) << number;
  }
  EXPECT_TRUE(std::is_sorted(snapshot.encodings.begin(), snapshot.encodings.end(),
                             [](const auto& a, const auto& b) { return a.bytes_per_second > b.bytes_per_second; }));
}

}  // namespace
}  // namespace kvlink::store::node
