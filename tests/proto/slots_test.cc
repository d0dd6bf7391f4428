#include "proto/slots.h"

#include <gtest/gtest.h>

#include <numeric>

namespace kvlink {
namespace {

TEST(Slots, HashesAreTheDefinedOnes) {
  Identity identity;
  std::iota(identity.bytes.begin(), identity.bytes.end(), uint8_t{0});
  Etag etag;
  etag.bytes.fill(7);
  EXPECT_EQ(NamespaceSeed("ns"), 0xe626277d79553060u);
  const EncodingHash hash = HashEncoding(NamespaceSeed("ns"), identity, Codec::kQ8, etag);
  EXPECT_EQ(hash.low, 0x066340cade4b9598u);
  EXPECT_EQ(hash.high, 0xcb2fe9ab6db7417cu);
  EXPECT_NE(HashEncoding(NamespaceSeed("ns"), identity, Codec::kQ4, etag).low, hash.low);
  EXPECT_EQ(SlotOf(identity), 1);
}

}  // namespace
}  // namespace kvlink
