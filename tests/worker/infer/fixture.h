// Shared by the tests of worker/infer: a tiny model on a backend, a real embedded store in its own directory, a
// generator.
#ifndef KVLINK_TESTS_WORKER_INFER_FIXTURE_H_
#define KVLINK_TESTS_WORKER_INFER_FIXTURE_H_

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "kernels/ref/ref.h"
#include "store/embedded/embedded.h"
#include "tests/support/backends.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_model.h"
#include "worker/encode/encoder.h"
#include "worker/files/weights.h"
#include "worker/infer/generator.h"

namespace kvlink::infer {

using testing::Soak;
using testing::TestSeed;

// A directory removed with the object.
class TempDirectory {
 public:
  TempDirectory() {
    static int count = 0;
    path_ =
        (std::filesystem::path(::testing::TempDir()) / absl::StrCat("kvlink_infer_", getpid(), "_", count++)).string();
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A model and its parts. Members are ordered by lifetime.
struct Loaded {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Weights> weights;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;
};

inline Loaded LoadModel(const std::string& path, std::unique_ptr<kernels::Backend> backend) {
  Loaded loaded;
  loaded.backend = std::move(backend);
  auto weights = model::OpenWeights(path);
  EXPECT_TRUE(weights.ok()) << weights.status();
  loaded.weights = *std::move(weights);
  auto model = model::Model::Load(loaded.backend.get(), *loaded.weights, {});
  EXPECT_TRUE(model.ok()) << model.status();
  loaded.model = *std::move(model);
  const auto fingerprint = encode::FingerprintOf(*loaded.weights, false);
  EXPECT_TRUE(fingerprint.ok()) << fingerprint.status();
  loaded.fingerprint = *fingerprint;
  return loaded;
}

// An f32 backend: the fast one if this build has it.
inline std::unique_ptr<kernels::Backend> FastF32() {
  std::unique_ptr<kernels::Backend> backend;
  for (const testing::BackendFactory& factory : testing::AllBackends()) {
    if (factory.name == "ref" || factory.name == "cpu_f32") backend = factory.make();
  }
  return backend;
}

inline std::unique_ptr<store::Store> OpenStore(const std::string& directory, int64_t dram_bytes = int64_t{64} << 20) {
  store::EmbeddedOptions options;
  options.dram_bytes = dram_bytes;
  options.capacity_bytes = int64_t{1} << 30;
  auto opened = store::OpenEmbedded(directory, options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

inline std::vector<int32_t> RandomTokens(std::mt19937_64& random, int64_t count, int64_t vocab) {
  std::uniform_int_distribution<int32_t> token(3, static_cast<int32_t>(vocab) - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& one : tokens) one = token(random);
  return tokens;
}

inline double LargestDifference(absl::Span<const float> a, absl::Span<const float> b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= most)) most = difference;  // keeps a NaN
  }
  return most;
}

// Kullback-Leibler divergence of softmax(q) from softmax(p), in nats.
inline double Divergence(absl::Span<const float> p, absl::Span<const float> q) {
  const auto normaliser = [](absl::Span<const float> logits) {
    double most = -HUGE_VAL;
    for (float logit : logits) most = std::max<double>(most, logit);
    double sum = 0;
    for (float logit : logits) sum += std::exp(logit - most);
    return most + std::log(sum);
  };
  const double p_sum = normaliser(p);
  const double q_sum = normaliser(q);
  double divergence = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_sum;
    divergence += std::exp(log_p) * (log_p - (q[i] - q_sum));
  }
  return divergence;
}

inline std::vector<testing::BackendFactory> GeneratorDevices() {
  std::vector<testing::BackendFactory> backends = testing::AllBackends();
  std::erase_if(backends, [](const auto& backend) { return !backend.on_device; });
  return backends;
}

// The scalar backend and every device backend. Under ThreadSanitizer the scalar one alone: the threads are the
// generator's, whatever computes, and those of devices have tests of their own.
inline std::vector<testing::BackendFactory> GeneratorBackends() {
  std::vector<testing::BackendFactory> backends = testing::AllBackends();
#if defined(__SANITIZE_THREAD__)
  std::erase_if(backends, [](const auto& backend) { return backend.name != "ref"; });
#else
  std::erase_if(backends, [](const auto& backend) { return backend.name != "ref" && !backend.on_device; });
#endif
  return backends;
}

// A generator's surroundings: a backend, four documents, a prompt.
class GeneratorTest : public ::testing::TestWithParam<testing::BackendFactory> {
 protected:
  void SetUp() override {
    testing::TinyModelOptions model;
    model.seed = 11;
    model.tied = false;  // tied random embeddings would only repeat the last token
    if (GetParam().on_device) {
      model.layers = 2;     // emulation is slow
      model.head_dim = 64;  // supported by the tensor kernels
      model.heads = 2;
      model.kv_heads = 1;
    }
    ASSERT_TRUE(testing::WriteTinyModel(directory_.path() + "/model", model).ok());
    loaded_ = LoadModel(directory_.path() + "/model", GetParam().make());
    bf16_ = loaded_.backend->compute_dtype() == kernels::Dtype::kBf16;
    store_ = OpenStore(directory_.path() + "/store");
    std::mt19937_64 random(TestSeed());
    for (int64_t tokens : {70, 1, 130, 64}) {
      documents_.push_back({RandomTokens(random, tokens, model.vocab)});
    }
    prompt_ = {RandomTokens(random, 5, model.vocab), RandomTokens(random, 9, model.vocab)};
  }

  // For logits computed in another order. They are of order 1, and so are the values that bf16 rounds on the way, by
  // 2^-9 each time.
  double tolerance() const { return bf16_ ? 0.05 : 1e-4; }
  // The codec that is as exact as the arithmetic.
  Codec exact() const { return bf16_ ? Codec::kRawBf16 : Codec::kRawF32; }
  GeneratorOptions Options(Codec codec) const {
    GeneratorOptions options;
    options.codec = codec;
    options.profile = *link::LoadLinkProfile("untuned");
    options.private_tokens = 1024;
    return options;
  }
  GeneratorOptions Options() const { return Options(exact()); }
  std::unique_ptr<Generator> MakeGenerator(store::Store* store, const GeneratorOptions& options) {
    auto generator = Generator::Create(loaded_.model.get(), loaded_.fingerprint, store, options);
    EXPECT_TRUE(generator.ok()) << generator.status();
    return *std::move(generator);
  }
  // Bytes of these documents' residents.
  int64_t BytesOf(const std::vector<int>& documents) const {
    const model::ModelConfig& config = loaded_.model->config();
    int64_t bytes = 0;
    for (int i : documents) {
      const SlabShape shape{exact(), config.kv_heads, config.head_dim,
                            static_cast<int64_t>(documents_[i].tokens.size())};
      bytes += Resident::Bytes(shape, config.layers);
    }
    return bytes;
  }
  Request Ask(std::vector<int> documents = {0, 1, 2, 3}) const {
    Request request;
    request.prompt = prompt_;
    for (int i : documents) request.documents.push_back(documents_[i]);
    request.keep_logits = true;
    return request;
  }
  static std::unique_ptr<Conversation> Start(Generator& generator, const Request& request) {
    auto conversation = generator.Start(request);
    EXPECT_TRUE(conversation.ok()) << conversation.status();
    return conversation.ok() ? *std::move(conversation) : nullptr;
  }
  static std::vector<int32_t> Decode(Generator& generator, Conversation& conversation, int tokens) {
    std::vector<int32_t> decoded = {conversation.next()};
    while (static_cast<int>(decoded.size()) < tokens) {
      EXPECT_TRUE(generator.Step(conversation, {}).ok());
      decoded.push_back(conversation.next());
    }
    return decoded;
  }
  static std::vector<float> LogitsOf(const Conversation& conversation) {
    return {conversation.logits().begin(), conversation.logits().end()};
  }
  // Encodes all documents into the store, with a separate generator.
  void FillStore() { FillStore(exact()); }
  void FillStore(Codec codec) {
    const auto generator = MakeGenerator(store_.get(), Options(codec));
    Start(*generator, Ask());
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    ASSERT_EQ(generator->stats().write_back.written, 4) << generator->stats().write_back.last_error;
  }
  std::vector<float> Expected(const Request& request) {
    const auto generator = MakeGenerator(nullptr, Options());
    return LogitsOf(*Start(*generator, request));
  }

  TempDirectory directory_;
  Loaded loaded_;
  bool bf16_ = false;  // the backend computes in bf16
  std::unique_ptr<store::Store> store_;
  std::vector<RequestDocument> documents_;
  link::PromptTokens prompt_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_TESTS_WORKER_INFER_FIXTURE_H_
