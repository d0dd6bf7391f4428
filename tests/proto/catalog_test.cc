#include "proto/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"

namespace kvlink {
namespace {

constexpr EnvelopeKind kCatalogKind{0x434C564B, 2, 0, "catalog entry"};

CatalogEntry SampleEntry() {
  CatalogEntry entry;
  entry.generation = 0x1122334455667788;
  entry.model.bytes.fill(0xab);
  entry.title = "Über";
  entry.parts.resize(2);
  entry.parts[0].identity.bytes.fill(1);
  entry.parts[0].tokens = {0, 1, 300, 49151};
  entry.parts[1].identity.bytes.fill(2);
  entry.parts[1].tokens = {-1};
  entry.written_at_us = 1767225600000000;
  return entry;
}

TEST(Catalog, IsTheStoredFormat) {
  EXPECT_EQ(absl::BytesToHexString(SerializeCatalogEntry(SampleEntry())),
            "4b564c4302000000990000005486c7db0888ef99abc5e88c91111a20abababababababababababababababababababab"
            "abababababababababababab2205c39c6265722a2b0a2001010101010101010101010101010101010101010101010101"
            "0101010101010112070001ac02ffff022a2e0a2002020202020202020202020202020202020202020202020202020202"
            "02020202120affffffffffffffffff0130808081b184e99103");
}

// What kvlink ingest adds.
TEST(Catalog, IsTheStoredFormatWithContentAndRanges) {
  CatalogEntry entry = SampleEntry();
  entry.parts[0].end = 300;
  entry.parts[1].begin = 302;
  entry.parts[1].end = 303;
  entry.content.bytes.fill(0xcd);
  EXPECT_EQ(absl::BytesToHexString(SerializeCatalogEntry(entry)),
            "4b564c4302000000c4000000f8234e700888ef99abc5e88c91111a20abababababababababababababababababababab"
            "abababababababababababab2205c39c6265722a2e0a2001010101010101010101010101010101010101010101010101"
            "0101010101010112070001ac02ffff0220ac022a340a2002020202020202020202020202020202020202020202020202"
            "02020202020202120affffffffffffffffff0118ae0220af0230808081b184e991033a20cdcdcdcdcdcdcdcdcdcdcdcd"
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd");
}

TEST(Catalog, GoesBothWays) {
  CatalogEntry entry = SampleEntry();
  entry.parts[1].begin = 7;
  entry.parts[1].end = 9;
  entry.content.bytes.fill(0xcd);
  entry.context_digest = std::string(32, 'w');
  for (const bool tombstone : {false, true}) {
    entry.tombstone = tombstone;
    const auto parsed = ParseCatalogEntry(SerializeCatalogEntry(entry));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->generation, entry.generation);
    EXPECT_EQ(parsed->tombstone, tombstone);
    EXPECT_TRUE(parsed->model == entry.model);
    EXPECT_EQ(parsed->title, entry.title);
    EXPECT_EQ(parsed->written_at_us, entry.written_at_us);
    ASSERT_EQ(parsed->parts.size(), 2u);
    EXPECT_TRUE(parsed->parts[1].identity == entry.parts[1].identity);
    EXPECT_EQ(parsed->parts[0].tokens, entry.parts[0].tokens);
    EXPECT_EQ(parsed->parts[1].tokens, entry.parts[1].tokens);
    EXPECT_EQ(parsed->parts[0].end, 0u);
    EXPECT_EQ(parsed->parts[1].begin, 7u);
    EXPECT_EQ(parsed->parts[1].end, 9u);
    EXPECT_TRUE(parsed->content == entry.content);
    EXPECT_EQ(parsed->context_digest, entry.context_digest);
  }
}

// Of it nothing says when it was written.
TEST(Catalog, RefusesFormat1ByName) {
  const std::string first = absl::HexStringToBytes(
      "4b564c430100000090000000681211660888ef99abc5e88c91111a20abababababababababababababababababababab"
      "abababababababababababab2205c39c6265722a2b0a2001010101010101010101010101010101010101010101010101"
      "0101010101010112070001ac02ffff022a2e0a2002020202020202020202020202020202020202020202020202020202"
      "02020202120affffffffffffffffff01");
  const absl::Status status = ParseCatalogEntry(first).status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_NE(status.message().find("catalog entry: format version 1.0"), absl::string_view::npos) << status;
}

TEST(Catalog, RefusesDamageAndExcess) {
  const std::string bytes = SerializeCatalogEntry(SampleEntry());
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(ParseCatalogEntry(bytes.substr(0, n)).ok());
  proto::CatalogEntry good;
  ASSERT_TRUE(good.ParseFromString(bytes.substr(kEnvelopeBytes)));
  proto::CatalogEntry message = good;
  message.set_model("short");
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
  message = good;
  message.mutable_parts(0)->set_identity("");
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
  message = good;
  message.set_content("short");
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
  message = good;
  message.set_context_digest("short");
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
  message = good;
  message.mutable_parts(0)->set_begin(1);
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
  message = good;
  while (message.parts_size() < 5000) message.add_parts();
  EXPECT_FALSE(ParseCatalogEntry(WrapEnvelope(kCatalogKind, message.SerializeAsString())).ok());
}

}  // namespace
}  // namespace kvlink
