// Weights are rows of one table of random numbers: a model of 8B parameters without generating 16 GB of them.
#include "bench/device/random_model.h"

#include <algorithm>
#include <functional>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kvlink::bench {
namespace {

constexpr float kDeviation = 0.02f;
// A prime, so that rows of matrices do not repeat.
constexpr size_t kTable = 1048573;

}  // namespace

model::ModelConfig Llama8b() {
  model::ModelConfig config;
  config.architecture = "llama";
  config.layers = 32, config.hidden = 4096, config.intermediate = 14336;
  config.heads = 32, config.kv_heads = 8, config.head_dim = 128;
  config.vocab = 128256, config.context = 131072;
  config.rms_eps = 1e-5;
  config.rope.type = kernels::RopeConfig::Type::kLlama3;
  config.rope.theta = 500000, config.rope.rotary_dim = 128;
  config.rope.factor = 8, config.rope.low_freq_factor = 1, config.rope.high_freq_factor = 4;
  config.rope.original_context = 8192;
  config.window.assign(config.layers, 0);
  return config;
}

model::ModelConfig Toy() {
  model::ModelConfig config = Llama8b();
  config.layers = 2, config.hidden = 64, config.intermediate = 96;
  config.heads = 4, config.kv_heads = 2, config.head_dim = 16, config.rope.rotary_dim = 16;
  config.vocab = 320;
  config.window.assign(config.layers, 0);
  return config;
}

RandomWeights::RandomWeights(model::ModelConfig config) : config_(std::move(config)), table_(kTable) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, kDeviation);
  for (float& value : table_) value = normal(random);
}

absl::Status RandomWeights::Read(absl::string_view canonical_name, int64_t row_begin, int64_t rows,
                                 absl::Span<float> out) const {
  if (absl::EndsWith(canonical_name, "norm.weight")) {
    std::fill(out.begin(), out.end(), 1.0f);
    return absl::OkStatus();
  }
  size_t at = std::hash<std::string>()(absl::StrCat(canonical_name, ":", row_begin)) % kTable;
  for (size_t done = 0; done < out.size();) {
    const size_t count = std::min(out.size() - done, kTable - at);
    std::copy_n(table_.begin() + static_cast<std::ptrdiff_t>(at), count, out.begin() + done);
    done += count;
    at = 0;
  }
  return absl::OkStatus();
}

}  // namespace kvlink::bench
