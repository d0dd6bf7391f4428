#include "proto/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"

namespace kvlink {
namespace {

using testing::HasSubstr;

constexpr EnvelopeKind kManifestKind{0x4D4C564B, 1, 0, "manifest"};

// A manifest of real slabs: 2 layers, filled with numbers.
struct Sample {
  SlabShape shape;
  Manifest manifest;
  std::vector<std::vector<std::byte>> slabs;
};

Sample MakeSample(Codec codec, int64_t kv_heads, int64_t head_dim, int64_t tokens) {
  Sample sample;
  sample.shape = {codec, kv_heads, head_dim, tokens};
  sample.manifest = Manifest::Uniform(sample.shape, 2, head_dim);
  sample.manifest.identity.bytes.fill(0x11);
  sample.manifest.model.bytes.fill(0x22);
  sample.manifest.build = "test";
  for (int64_t layer = 0; layer < 2; ++layer) {
    std::vector<std::byte> slab(sample.shape.slab_bytes());
    for (int64_t i = 0; i < sample.shape.used_bytes(); ++i) slab[i] = static_cast<std::byte>(i * 7 + layer);
    EXPECT_TRUE(sample.manifest.ChecksumLayer(layer, slab).ok());
    sample.slabs.push_back(std::move(slab));
  }
  sample.manifest.Seal();
  return sample;
}

proto::Manifest Message(const Manifest& manifest) {
  const std::string bytes = SerializeManifest(manifest);
  proto::Manifest message;
  EXPECT_TRUE(message.ParseFromString(bytes.substr(kEnvelopeBytes)));
  return message;
}

absl::Status ParseMessage(const proto::Manifest& message) {
  return ParseManifest(WrapEnvelope(kManifestKind, message.SerializeAsString())).status();
}

TEST(Manifest, IsTheStoredFormat) {
  const Sample sample = MakeSample(Codec::kQ8, 1, 4, 3);
  EXPECT_EQ(absl::BytesToHexString(SerializeManifest(sample.manifest)),
            "4b564c4d01000000c9000000cace6d8e0a20111111111111111111111111111111111111111111111111111111111111"
            "1111122022222222222222222222222222222222222222222222222222222222222222221803221040be13e0d585fe00"
            "af8239fca9896b6c280332250a10080110011804200428033002380248300a0e08021001180428033001380248301880"
            "20322e0a13080110011804200428033002380240802048300a1108021001180428033001380240802048301080201880"
            "203a10e334d78b89d5f2d4e733f35130a7c921420474657374");
}

TEST(Manifest, GoesBothWays) {
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    for (const int64_t tokens : {1, 64, 65, 512, 513, 1500}) {
      const Sample sample = MakeSample(codec, 3, 64, tokens);
      ASSERT_TRUE(sample.manifest.Validate().ok()) << sample.manifest.Validate();
      const auto parsed = ParseManifest(SerializeManifest(sample.manifest));
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_TRUE(parsed->identity == sample.manifest.identity);
      EXPECT_TRUE(parsed->etag == sample.manifest.etag);
      EXPECT_EQ(parsed->codec, codec);
      EXPECT_EQ(parsed->tokens, tokens);
      EXPECT_EQ(parsed->unit_checksums, sample.manifest.unit_checksums);
      EXPECT_EQ(parsed->bytes(), 2 * sample.shape.slab_bytes());
      EXPECT_EQ(parsed->shape(1).slab_bytes(), sample.shape.slab_bytes());
      EXPECT_EQ(SerializeManifest(*parsed), SerializeManifest(sample.manifest));
      for (int64_t layer = 0; layer < 2; ++layer) EXPECT_TRUE(parsed->VerifyLayer(layer, sample.slabs[layer]).ok());
    }
  }
}

TEST(Manifest, DamageIsNamedByLayerHeadAndUnit) {
  Sample sample = MakeSample(Codec::kRawBf16, 3, 64, 1500);
  sample.slabs[1][sample.shape.unit_offset(2, 1) + 5] ^= std::byte{1};
  const absl::Status status = sample.manifest.VerifyLayer(1, sample.slabs[1]);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1, head 2, unit 1"));
  EXPECT_EQ(sample.manifest.VerifyLayer(1, absl::MakeSpan(sample.slabs[1]).subspan(1)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sample.manifest.VerifyLayer(2, sample.slabs[1]).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Manifest, EveryByteOfEveryUnitCounts) {
  Sample sample = MakeSample(Codec::kQ4, 2, 8, 600);
  for (int64_t i = 0; i < sample.shape.used_bytes(); i += 3) {
    sample.slabs[0][i] ^= std::byte{0x40};
    EXPECT_EQ(sample.manifest.VerifyLayer(0, sample.slabs[0]).code(), absl::StatusCode::kDataLoss) << i;
    sample.slabs[0][i] ^= std::byte{0x40};
  }
}

TEST(Manifest, UnitsAreCountedAcrossLayers) {
  const Sample sample = MakeSample(Codec::kRawBf16, 3, 64, 1500);
  EXPECT_EQ(sample.manifest.unit_index(0, 0, 0), 0);
  EXPECT_EQ(sample.manifest.unit_index(0, 1, 2), 5);
  EXPECT_EQ(sample.manifest.unit_index(1, 2, 1), 9 + 7);
}

TEST(Manifest, ALayerWithoutKeysAndValuesIsSkipped) {
  Sample sample = MakeSample(Codec::kRawBf16, 2, 64, 100);
  sample.manifest.layers.insert(sample.manifest.layers.begin() + 1, LayerManifest{});
  EXPECT_TRUE(sample.manifest.Validate().ok()) << sample.manifest.Validate();
  EXPECT_TRUE(ParseManifest(SerializeManifest(sample.manifest)).ok());
  EXPECT_TRUE(sample.manifest.VerifyLayer(2, sample.slabs[1]).ok());
}

TEST(Manifest, RefusesWhatItDoesNotKnow) {
  const Sample sample = MakeSample(Codec::kRawBf16, 2, 64, 100);
  const proto::Manifest good = Message(sample.manifest);
  ASSERT_TRUE(ParseMessage(good).ok());
  for (const uint32_t kind : {3u, 4u, 5u, 1000u}) {
    proto::Manifest message = good;
    message.mutable_layers(0)->mutable_components(0)->set_kind(kind);
    const absl::Status status = ParseMessage(message);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("component kind"));
  }
  proto::Manifest message = good;
  message.set_codec(9);
  EXPECT_EQ(ParseMessage(message).code(), absl::StatusCode::kUnimplemented);
  message = good;
  message.set_cipher(1);
  EXPECT_EQ(ParseMessage(message).code(), absl::StatusCode::kUnimplemented);
  message = good;
  message.add_stored_unit_lengths(5);
  EXPECT_EQ(ParseMessage(message).code(), absl::StatusCode::kUnimplemented);
}

TEST(Manifest, RefusesWhatDoesNotFitTogether) {
  const Sample sample = MakeSample(Codec::kRawBf16, 2, 64, 100);
  const proto::Manifest good = Message(sample.manifest);
  std::vector<std::function<void(proto::Manifest&)>> changes = {
      [](auto& m) { m.set_identity("short"); },
      [](auto& m) { m.set_etag(std::string(16, 'x')); },
      [](auto& m) { m.set_tokens(0); },
      [](auto& m) { m.set_tokens(101); },
      [](auto& m) { m.set_tokens(int64_t{1} << 60); },
      [](auto& m) { m.clear_layers(); },
      [](auto& m) { m.clear_unit_checksums(); },
      [](auto& m) { m.add_unit_checksums(7); },
      [](auto& m) { m.mutable_layers(1)->set_offset(0); },
      [](auto& m) { m.mutable_layers(1)->set_offset(m.layers(1).offset() + 1); },
      [](auto& m) { m.mutable_layers(1)->set_offset(INT64_MAX - 4095); },
      [](auto& m) { m.mutable_layers(1)->set_offset(-4096); },
      [](auto& m) { m.mutable_layers(1)->set_length(m.layers(1).length() + 4096); },
      [](auto& m) { m.mutable_layers(0)->clear_components(); },
      [](auto& m) { m.mutable_layers(0)->mutable_components()->RemoveLast(); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_heads(INT64_MAX); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_dim(63); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(1)->set_heads(3); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_rotary_dim(65); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_rotation(1); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_rotation(77); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_dtype(2); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_scales(2); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_length(1); },
      [](auto& m) {
        while (m.layers_size() < 1025) m.add_layers();
      },
      [](auto& m) {
        while (m.layers(0).components_size() < 600) m.mutable_layers(0)->add_components()->set_kind(1);
      },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    proto::Manifest message = good;
    changes[i](message);
    EXPECT_EQ(ParseMessage(message).code(), absl::StatusCode::kInvalidArgument) << "change " << i;
  }
}

TEST(Manifest, DamagedBytesNeverParse) {
  const std::string bytes = SerializeManifest(MakeSample(Codec::kQ8, 2, 16, 70).manifest);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 5) continue;  // minor version
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x04);
    EXPECT_FALSE(ParseManifest(damaged).ok()) << i;
    EXPECT_FALSE(ParseManifest(absl::string_view(bytes).substr(0, i)).ok()) << i;
  }
}

}  // namespace
}  // namespace kvlink
