#include "worker/encode/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kernels/ref/ref.h"
#include "tests/support/backends.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_model.h"

namespace kvlink::encode {
namespace {

using ::testing::HasSubstr;
using Tokens = std::vector<int32_t>;

// A tiny model on one of the backends.
struct TinyModel {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;

  TinyModel(const testing::BackendFactory& factory, const testing::TinyModelOptions& options) {
    backend = factory.make();
    const std::string directory =
        (std::filesystem::path(::testing::TempDir()) / ("encoder_" + std::to_string(getpid()))).string();
    EXPECT_TRUE(testing::WriteTinyModel(directory, options).ok());
    const auto weights = model::OpenWeights(directory);
    EXPECT_TRUE(weights.ok()) << weights.status();
    auto loaded = model::Model::Load(backend.get(), **weights, {});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    model = *std::move(loaded);
    fingerprint = *FingerprintOf(**weights, false);
    std::filesystem::remove_all(directory);
  }

  std::unique_ptr<Encoder> MakeEncoder(Codec codec, int64_t batch_tokens, Wrapper wrapper = {}) const {
    EncoderOptions options;
    options.codec = codec;
    options.batch_tokens = batch_tokens;
    options.wrapper = std::move(wrapper);
    auto encoder = Encoder::Create(model.get(), fingerprint, options);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return *std::move(encoder);
  }

  // A wrapper with the embeddings of these tokens.
  Wrapper WrapperLike(const Tokens& header, const Tokens& trailer) const {
    const int64_t hidden = model->config().hidden;
    std::vector<float> rows((header.size() + trailer.size()) * hidden);
    for (size_t i = 0; i < header.size() + trailer.size(); ++i) {
      const int32_t token = i < header.size() ? header[i] : trailer[i - header.size()];
      EXPECT_TRUE(model->EmbeddingRow(token, absl::MakeSpan(rows).subspan(i * hidden, hidden)).ok());
    }
    return MakeWrapper(static_cast<int64_t>(header.size()), static_cast<int64_t>(trailer.size()), std::move(rows));
  }
};

std::vector<Encoded> Encode(Encoder& encoder, const std::vector<Tokens>& documents) {
  std::vector<absl::Span<const int32_t>> spans(documents.begin(), documents.end());
  auto encoded = encoder.Encode(spans);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  return encoded.ok() ? *std::move(encoded) : std::vector<Encoded>(documents.size());
}

Tokens RandomTokens(std::mt19937& random, int64_t count) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 280);
  return tokens;
}

// Row of keys (or values) of token t in a raw-f32 slab.
const float* Row(const Encoded& encoded, int64_t layer, int64_t head, int64_t token, bool value) {
  const SlabShape shape = encoded.manifest.shape(layer);
  const int64_t block = token / kBlockTokens;
  int64_t offset = shape.block_offset(head, block) + (token % kBlockTokens) * shape.row_bytes();
  if (value) offset += shape.value_offset(shape.block_tokens(block));
  return reinterpret_cast<const float*>(encoded.slabs[layer].data() + offset);
}

// Largest difference of the first `tokens` tokens' keys and values.
double Difference(const Encoded& a, const Encoded& b, int64_t tokens) {
  double largest = 0;
  for (size_t layer = 0; layer < a.slabs.size(); ++layer) {
    const SlabShape shape = a.manifest.shape(layer);
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      for (int64_t token = 0; token < tokens; ++token) {
        for (const bool value : {false, true}) {
          const float* x = Row(a, layer, head, token, value);
          const float* y = Row(b, layer, head, token, value);
          for (int64_t d = 0; d < shape.head_dim; ++d) {
            largest = std::max(largest, static_cast<double>(std::fabs(x[d] - y[d])));
          }
        }
      }
    }
  }
  return largest;
}

class EncoderTest : public ::testing::TestWithParam<testing::BackendFactory> {};

TEST_P(EncoderTest, BitsDoNotDependOnTheBatch) {
  if (GetParam().name == "cuda") GTEST_SKIP() << "cuBLASLt chooses how to multiply by the number of rows";
  const TinyModel setup(GetParam(), {});
  std::mt19937 random(7);
  std::vector<int64_t> lengths = {1, 3, 64, 65, 130, 40, 300, 2, 77, 500, 16};
  std::vector<Codec> codecs = {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4};
  if (GetParam().on_device) {  // emulation is slow
    lengths.resize(6);
    codecs.resize(2);
  }
  std::vector<Tokens> documents;
  for (const int64_t length : lengths) documents.push_back(RandomTokens(random, length));
  for (const Codec codec : codecs) {
    const auto encoder = setup.MakeEncoder(codec, 256);
    const std::vector<Encoded> together = Encode(*encoder, documents);
    // The codec only packs what the pass computed: one of them is enough for the many passes of one document each.
    for (size_t i = 0; i < documents.size() && codec == Codec::kRawF32; ++i) {
      const Encoded alone = std::move(Encode(*encoder, {documents[i]})[0]);
      EXPECT_EQ(together[i].manifest.etag.Hex(), alone.manifest.etag.Hex())
          << CodecName(codec) << ", document " << i << " of " << documents[i].size() << " tokens";
    }
    std::vector<Tokens> reversed(documents.rbegin(), documents.rend());
    const std::vector<Encoded> backwards = Encode(*encoder, reversed);
    for (size_t i = 0; i < documents.size(); ++i) {
      EXPECT_EQ(together[i].manifest.etag.Hex(), backwards[documents.size() - 1 - i].manifest.etag.Hex());
    }
  }
}

TEST_P(EncoderTest, ManifestsAreWholeAndNameTheirDocument) {
  const TinyModel setup(GetParam(), {});
  std::mt19937 random(8);
  const int64_t longest = GetParam().on_device ? 100 : 600;  // emulation is slow
  const std::vector<Tokens> documents = {RandomTokens(random, longest), RandomTokens(random, 64)};
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    const auto encoder = setup.MakeEncoder(codec, 2048);
    const std::vector<Encoded> encoded = Encode(*encoder, documents);
    for (size_t i = 0; i < documents.size(); ++i) {
      const Manifest& manifest = encoded[i].manifest;
      EXPECT_TRUE(manifest.Validate().ok()) << manifest.Validate();
      EXPECT_TRUE(manifest.identity == encoder->IdentityOf(documents[i]));
      EXPECT_TRUE(manifest.model == setup.fingerprint);
      EXPECT_EQ(manifest.codec, codec);
      EXPECT_EQ(manifest.tokens, static_cast<int64_t>(documents[i].size()));
      ASSERT_EQ(encoded[i].slabs.size(), 3u);
      for (int64_t layer = 0; layer < 3; ++layer) {
        EXPECT_TRUE(manifest.VerifyLayer(layer, encoded[i].slabs[layer]).ok());
        EXPECT_EQ(reinterpret_cast<uintptr_t>(encoded[i].slabs[layer].data()) % 4096, 0u);
        const SlabShape shape = manifest.shape(layer);
        for (int64_t b = shape.used_bytes(); b < shape.slab_bytes(); ++b) {
          ASSERT_EQ(encoded[i].slabs[layer][b], std::byte{0}) << "padding";
        }
      }
    }
  }
}

// Tokens see only what stands before them, in their own document: a prefix encodes to the prefix of the encoding, and a
// document that is cut into several passes comes out as one that is not.
TEST_P(EncoderTest, IsCausalAndMayBeCut) {
  for (const char* architecture : {"llama", "qwen3", "mistral"}) {
    if (testing::kSanitized && GetParam().on_device && architecture != std::string("mistral")) continue;
    testing::TinyModelOptions options;
    options.architecture = architecture;
    if (options.architecture == "mistral") options.window = 50;
    const TinyModel setup(GetParam(), options);
    std::mt19937 random(9);
    const Tokens whole = RandomTokens(random, 330);
    const double tolerance = setup.backend->compute_dtype() == kernels::Dtype::kBf16 ? 0.15 : 1e-4;
    const Encoded in_one = std::move(Encode(*setup.MakeEncoder(Codec::kRawF32, 2048), {whole})[0]);
    const Encoded cut = std::move(Encode(*setup.MakeEncoder(Codec::kRawF32, 100), {whole})[0]);
    EXPECT_LE(Difference(in_one, cut, 330), tolerance) << architecture;
    const Tokens prefix(whole.begin(), whole.begin() + 90);
    const Encoded shorter = std::move(Encode(*setup.MakeEncoder(Codec::kRawF32, 2048), {prefix})[0]);
    EXPECT_LE(Difference(shorter, in_one, 90), tolerance) << architecture;
    Tokens changed = whole;
    changed[200] ^= 1;
    const Encoded other = std::move(Encode(*setup.MakeEncoder(Codec::kRawF32, 2048), {changed})[0]);
    EXPECT_LE(Difference(other, in_one, 200), tolerance) << architecture;
    EXPECT_GT(Difference(other, in_one, 201), tolerance) << architecture;
  }
}

// All backends agree with the scalar one in f32, except for rounding: keys and values of the order of 1, rounded to the
// 8 bits of bf16 some ten times on their way.
TEST_P(EncoderTest, AgreesWithTheScalarBackend) {
  const TinyModel setup(GetParam(), {});
  const TinyModel scalar({"ref", [] { return kernels::MakeRefBackend(); }}, {});
  std::mt19937 random(10);
  const std::vector<Tokens> documents = {RandomTokens(random, 150), RandomTokens(random, 1), RandomTokens(random, 64)};
  const double tolerance = setup.backend->compute_dtype() == kernels::Dtype::kBf16 ? 0.15 : 1e-4;
  const std::vector<Encoded> here = Encode(*setup.MakeEncoder(Codec::kRawF32, 256), documents);
  const std::vector<Encoded> there = Encode(*scalar.MakeEncoder(Codec::kRawF32, 256), documents);
  for (size_t i = 0; i < documents.size(); ++i) {
    EXPECT_EQ(here[i].manifest.identity, there[i].manifest.identity);
    EXPECT_LE(Difference(here[i], there[i], here[i].manifest.tokens), tolerance) << i;
  }
}

// A wrapper whose rows are those of ordinary tokens encodes what these tokens around the document would.
TEST_P(EncoderTest, AWrapperStandsAroundTheDocumentInItsSegment) {
  const TinyModel setup(GetParam(), {});
  std::mt19937 random(11);
  const std::pair<int64_t, int64_t> shapes[] = {{8, 8}, {3, 0}, {0, 70}};
  for (const auto& [before, behind] : shapes) {
    const Tokens header = RandomTokens(random, before), trailer = RandomTokens(random, behind);
    const std::vector<Tokens> documents = {RandomTokens(random, 90), RandomTokens(random, 1), RandomTokens(random, 57)};
    std::vector<Tokens> whole;
    for (const Tokens& document : documents) {
      whole.push_back(header);
      whole.back().insert(whole.back().end(), document.begin(), document.end());
      whole.back().insert(whole.back().end(), trailer.begin(), trailer.end());
    }
    // Cuts after 64 rows fall into wrappers and documents.
    const Wrapper wrapper = setup.WrapperLike(header, trailer);
    const auto encoder = setup.MakeEncoder(Codec::kRawF32, 64, wrapper);
    const std::vector<Encoded> inside = Encode(*encoder, documents);
    const std::vector<Encoded> plain = Encode(*setup.MakeEncoder(Codec::kRawF32, 64), whole);
    for (size_t i = 0; i < documents.size(); ++i) {
      EXPECT_EQ(inside[i].manifest.tokens, static_cast<int64_t>(whole[i].size()));
      EXPECT_TRUE(inside[i].manifest.Validate().ok());
      EXPECT_LE(Difference(inside[i], plain[i], inside[i].manifest.tokens), 1e-6) << i;
      EXPECT_TRUE(inside[i].manifest.identity == encoder->IdentityOf(documents[i]));
    }
  }
}

TEST_P(EncoderTest, EncodingsInsideDifferentWrappersHaveDifferentIdentities) {
  const TinyModel setup(GetParam(), {});
  std::mt19937 random(12);
  const Tokens document = RandomTokens(random, 30);
  const Tokens a = RandomTokens(random, 4), b = RandomTokens(random, 4);
  std::vector<Wrapper> wrappers = {{}, setup.WrapperLike(a, b), setup.WrapperLike(b, a), setup.WrapperLike(a, {})};
  std::set<std::string> seen;
  for (const Wrapper& wrapper : wrappers) {
    seen.insert(setup.MakeEncoder(Codec::kRawBf16, 64, wrapper)->IdentityOf(document).Hex());
  }
  EXPECT_EQ(seen.size(), wrappers.size());
}

TEST_P(EncoderTest, RefusesWhatHasNoRoomInAWrapper) {
  testing::TinyModelOptions options;
  options.context = 128;
  const TinyModel setup(GetParam(), options);
  const auto encoder = setup.MakeEncoder(Codec::kRawBf16, 64, setup.WrapperLike(Tokens(5, 9), Tokens(3, 9)));
  const Tokens good(120, 5), too_long(121, 5), of_the_wrapper(3, 320);
  const auto status = [&](const Tokens& tokens) { return encoder->Encode({tokens}).status(); };
  EXPECT_TRUE(status(good).ok()) << status(good);
  EXPECT_EQ(status(too_long).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status(too_long).message()), HasSubstr("121 tokens and 8 of its wrapper"));
  // A document cannot name the wrapper's rows.
  EXPECT_EQ(status(of_the_wrapper).code(), absl::StatusCode::kInvalidArgument);
  EncoderOptions narrow;
  narrow.wrapper = MakeWrapper(1, 1, std::vector<float>(20));
  EXPECT_EQ(Encoder::Create(setup.model.get(), setup.fingerprint, narrow).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(EncoderTest, RefusesWhatCannotBeEncodedByIndex) {
  testing::TinyModelOptions options;
  options.context = 128;
  const TinyModel setup(GetParam(), options);
  const auto encoder = setup.MakeEncoder(Codec::kRawBf16, 64);
  const Tokens good(128, 5), empty, too_long(129, 5), unknown(3, 1000);
  const auto status = [&](const Tokens& bad) {
    const std::vector<absl::Span<const int32_t>> spans = {good, bad};
    return encoder->Encode(spans).status();
  };
  EXPECT_EQ(status(empty).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status(empty).message()), HasSubstr("document 1"));
  EXPECT_EQ(status(too_long).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status(too_long).message()), HasSubstr("129"));
  EXPECT_EQ(status(unknown).code(), absl::StatusCode::kInvalidArgument);
  // Nothing of that is left behind: all pages are free again.
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(status(good).ok());
  EncoderOptions absurd;
  absurd.batch_tokens = 0;
  EXPECT_FALSE(Encoder::Create(setup.model.get(), setup.fingerprint, absurd).ok());
}

TEST_P(EncoderTest, EndsBeforeALayerWhenItIsTold) {
  testing::TinyModelOptions options;
  options.layers = 4;
  const TinyModel setup(GetParam(), options);
  const auto encoder = setup.MakeEncoder(Codec::kRawBf16, 64);
  const Tokens document(40, 5), other(50, 6);
  const std::vector<absl::Span<const int32_t>> documents = {document, other};
  int asked = 0;
  const auto at_the_second = [&] { return ++asked == 2 ? absl::CancelledError("enough") : absl::OkStatus(); };
  EXPECT_EQ(encoder->Encode(documents, at_the_second).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, 2);
  // Nothing of that is left behind, and who is never told encodes the same.
  asked = 2;
  const auto encoded = encoder->Encode(documents, at_the_second);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_GE(asked, 2 + 2 * 3);
  EXPECT_EQ((*encoded)[1].manifest.unit_checksums, (*encoder->Encode(documents))[1].manifest.unit_checksums);
}

INSTANTIATE_TEST_SUITE_P(Backends, EncoderTest, ::testing::ValuesIn(testing::AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::encode
