#include "proto/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"

namespace kvlink {
namespace {

using testing::HasSubstr;

constexpr EnvelopeKind kManifestKind{0x4D4C564B, 2, 0, "manifest"};

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
            "4b564c4d020000009b00000085ac1baf0a20111111111111111111111111111111111111111111111111111111111111"
            "111112202222222222222222222222222222222222222222222222222222222222222222180322104f98c83613884def"
            "5a01c9bb3617c1e528033a10e334d78b89d5f2d4e733f35130a7c9214204746573744a2708021080201a100801100118"
            "04200428033002380248301a0e0802100118042803300138024830");
}

// The record of docs/formats.md "Etag", written out.
TEST(Manifest, TheEtagIsTheStoredFormat) {
  const Sample sample = MakeSample(Codec::kQ8, 1, 4, 3);
  std::string record = absl::HexStringToBytes(
      "4b564c494e4b455402000000"                                          // KVLINKET, 2
      "1111111111111111111111111111111111111111111111111111111111111111"  // identity
      "2222222222222222222222222222222222222222222222222222222222222222"  // model
      "03000000030000000000000002000000");                                // q8, 3 tokens, 2 layers
  for (const char* offset : {"0000000000000000", "0010000000000000"}) {
    absl::StrAppend(&record, absl::HexStringToBytes(absl::StrCat(offset, "001000000000000002000000")));
    // Kind, heads, dim, rotary_dim, rotation, offset, length: of keys, and of values.
    for (const char* component : {"01000000010000000000000004000000000000000400000000000000"
                                  "02000000",
                                  "02000000010000000000000004000000000000000000000000000000"
                                  "01000000"}) {
      absl::StrAppend(&record, absl::HexStringToBytes(absl::StrCat(component, offset, "3000000000000000")));
    }
  }
  absl::StrAppend(&record, absl::HexStringToBytes("0200000000000000"));
  EXPECT_EQ(ComputeEtag(record, sample.manifest.unit_checksums).Hex(), sample.manifest.etag.Hex());
  EXPECT_EQ(sample.manifest.etag.Hex(), "4f98c83613884def5a01c9bb3617c1e5");
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
  LayerManifest without;
  without.offset = sample.manifest.layers[1].offset;
  sample.manifest.layers.insert(sample.manifest.layers.begin() + 1, without);
  sample.manifest.Seal();
  EXPECT_TRUE(sample.manifest.Validate().ok()) << sample.manifest.Validate();
  EXPECT_TRUE(ParseManifest(SerializeManifest(sample.manifest)).ok());
  EXPECT_TRUE(sample.manifest.VerifyLayer(2, sample.slabs[1]).ok());
  sample.manifest.layers[1].offset = 0;
  sample.manifest.Seal();
  EXPECT_FALSE(sample.manifest.Validate().ok()) << "it lies where the layer before ends";
}

// The layers of a uniform model are one record, however many they are.
TEST(Manifest, IsLittleMoreThanItsChecksums) {
  const SlabShape shape{Codec::kRawBf16, 8, 128, 512};
  Manifest manifest = Manifest::Uniform(shape, 80, 128);
  const std::vector<std::byte> slab(shape.slab_bytes());
  for (int64_t layer = 0; layer < 80; ++layer) ASSERT_TRUE(manifest.ChecksumLayer(layer, slab).ok());
  manifest.Seal();
  const std::string bytes = SerializeManifest(manifest);
  EXPECT_LT(bytes.size(), 8 * manifest.unit_checksums.size() + 200);
  const auto parsed = ParseManifest(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers.size(), 80u);
  EXPECT_EQ(parsed->layers[79].offset, 79 * shape.slab_bytes());
  EXPECT_EQ(parsed->layers[79].components[1].offset, 79 * shape.slab_bytes());
}

// Layers that differ keep their order and their places.
TEST(Manifest, LayersOfSeveralShapes) {
  const SlabShape narrow{Codec::kRawBf16, 1, 32, 70}, wide{Codec::kRawBf16, 4, 64, 70};
  Manifest manifest = Manifest::Uniform(narrow, 2, 32);
  const Manifest others = Manifest::Uniform(wide, 3, 64);
  for (LayerManifest layer : others.layers) {
    layer.offset += 2 * narrow.slab_bytes();
    for (Component& component : layer.components) component.offset += 2 * narrow.slab_bytes();
    manifest.layers.push_back(layer);
  }
  LayerManifest last = manifest.layers[0];
  last.offset = manifest.bytes();
  for (Component& component : last.components) component.offset = last.offset;
  manifest.layers.push_back(last);
  for (size_t layer = 0; layer < manifest.layers.size(); ++layer) {
    const std::vector<std::byte> slab(manifest.layers[layer].length);
    ASSERT_TRUE(manifest.ChecksumLayer(static_cast<int64_t>(layer), slab).ok());
  }
  manifest.Seal();
  EXPECT_EQ(Message(manifest).layers_size(), 3);
  const auto parsed = ParseManifest(SerializeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->bytes(), manifest.bytes());
  EXPECT_EQ(parsed->shape(4).kv_heads, 4);
  EXPECT_EQ(parsed->shape(5).kv_heads, 1);
}

// Nothing about an encoding differs under one etag but the build that wrote it.
TEST(Manifest, TheNameOfABuildIsBounded) {
  Manifest manifest = MakeSample(Codec::kRawBf16, 2, 64, 100).manifest;
  manifest.build = std::string(256, 'b');
  EXPECT_TRUE(ParseManifest(SerializeManifest(manifest)).ok());
  manifest.build += 'b';
  EXPECT_TRUE(absl::IsInvalidArgument(ParseManifest(SerializeManifest(manifest)).status()));
}

TEST(Manifest, TheEtagCoversAll) {
  const Sample sample = MakeSample(Codec::kRawBf16, 2, 64, 100);
  Manifest same = sample.manifest;
  same.build = "another build";
  same.Seal();
  EXPECT_TRUE(same.etag == sample.manifest.etag);
  const std::vector<std::function<void(Manifest&)>> changes = {
      [](Manifest& m) { m.identity.bytes[31] ^= 1; },
      [](Manifest& m) { m.model.bytes[0] ^= 1; },
      [](Manifest& m) { m.codec = Codec::kQ8; },
      [](Manifest& m) { ++m.tokens; },
      [](Manifest& m) { m.layers.pop_back(); },
      [](Manifest& m) { m.layers[1].offset += 4096; },
      [](Manifest& m) { m.layers[1].length += 4096; },
      [](Manifest& m) { m.layers[1].components.pop_back(); },
      [](Manifest& m) { m.layers[1].components[0].kind = ComponentKind::kLatent; },
      [](Manifest& m) { m.layers[1].components[0].heads = 1; },
      [](Manifest& m) { m.layers[1].components[1].dim = 128; },
      [](Manifest& m) { m.layers[0].components[0].rotary_dim = 32; },
      [](Manifest& m) { m.layers[0].components[0].rotation = Rotation::kNone; },
      [](Manifest& m) { m.layers[0].components[1].offset += 1; },
      [](Manifest& m) { m.layers[0].components[1].length += 1; },
      [](Manifest& m) { m.unit_checksums.back() ^= 1; },
      [](Manifest& m) { m.unit_checksums.push_back(0); },
  };
  std::set<Etag> seen = {sample.manifest.etag};
  for (size_t i = 0; i < changes.size(); ++i) {
    Manifest manifest = sample.manifest;
    changes[i](manifest);
    EXPECT_FALSE(manifest.Validate().ok()) << i;
    manifest.Seal();
    EXPECT_TRUE(seen.insert(manifest.etag).second) << "change " << i << " keeps an etag";
  }
  // What is valid in itself needs its own etag: another document's name, another rotary dimension.
  Manifest renamed = sample.manifest;
  changes[0](renamed);
  EXPECT_EQ(renamed.Validate().message(), "manifest: the etag does not match the content");
  renamed.Seal();
  EXPECT_TRUE(renamed.Validate().ok());
}

TEST(Manifest, TheVersionBeforeIsRefusedByName) {
  // As the build before wrote it: an empty payload suffices.
  const absl::Status status = ParseManifest(WrapEnvelope({0x4D4C564B, 1, 0, "manifest"}, "")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("manifest: format version 1.0; this build reads version 2"));
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
      [](auto& m) { m.mutable_layers(0)->set_count(0); },
      [](auto& m) { m.mutable_layers(0)->set_count(1); },
      [](auto& m) { m.mutable_layers(0)->set_count(3); },
      [](auto& m) { m.mutable_layers(0)->set_count(1025); },
      [](auto& m) { m.mutable_layers(0)->set_count(UINT32_MAX); },
      [](auto& m) {
        *m.add_layers() = m.layers(0);
        m.mutable_layers(0)->set_count(1000);
        m.mutable_layers(1)->set_count(25);
      },
      [](auto& m) { m.mutable_layers(0)->set_length(m.layers(0).length() + 4096); },
      [](auto& m) { m.mutable_layers(0)->set_length(-4096); },
      [](auto& m) { m.mutable_layers(0)->set_length(INT64_MAX); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_offset(1); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_offset(-1); },
      [](auto& m) { m.mutable_layers(0)->mutable_components(0)->set_offset(INT64_MAX); },
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
