// The canonical text of a configuration, which fingerprints hash, and the checks that every reader runs last.
#include "worker/files/config.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace kvlink::model {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxContext = int64_t{1} << 30;

absl::string_view RopeTypeName(kernels::RopeConfig::Type type) {
  switch (type) {
    case kernels::RopeConfig::Type::kDefault:
      return "default";
    case kernels::RopeConfig::Type::kLinear:
      return "linear";
    case kernels::RopeConfig::Type::kLlama3:
      return "llama3";
    case kernels::RopeConfig::Type::kYarn:
      return "yarn";
  }
  return "unknown";
}

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model configuration: ", field, " is ", value, ", expected ", low, " to ", high));
}

// %.17g distinguishes any two doubles.
std::string Exact(double value) { return absl::StrFormat("%.17g", value); }

}  // namespace

std::string ModelConfig::Canonical() const {
  const kernels::RopeConfig& r = rope;
  std::string text = "kvlink-model-config 1\n";
  absl::StrAppend(&text, "architecture ", architecture, "\nlayers ", layers, "\nhidden ", hidden, "\nintermediate ",
                  intermediate, "\nheads ", heads, "\nkv_heads ", kv_heads, "\nhead_dim ", head_dim, "\nvocab ", vocab);
  absl::StrAppend(&text, "\nrms_eps ", Exact(rms_eps), "\ntied_embeddings ", tied_embeddings ? 1 : 0, "\nqkv_bias ",
                  qkv_bias ? 1 : 0, "\nqk_norm ", qk_norm ? 1 : 0);
  // Only if present, so that fingerprints of models without biases stay unchanged.
  if (output_bias) absl::StrAppend(&text, "\noutput_bias 1");
  if (mlp_bias) absl::StrAppend(&text, "\nmlp_bias 1");
  absl::StrAppend(&text, "\nrope ", RopeTypeName(r.type), " theta ", Exact(r.theta), " rotary_dim ", r.rotary_dim);
  // Only the values that this type reads, so that a default left in the file does not change the fingerprint.
  if (r.type != kernels::RopeConfig::Type::kDefault) absl::StrAppend(&text, " factor ", Exact(r.factor));
  if (r.type == kernels::RopeConfig::Type::kLlama3) {
    absl::StrAppend(&text, " low ", Exact(r.low_freq_factor), " high ", Exact(r.high_freq_factor), " original ",
                    r.original_context);
  }
  if (r.type == kernels::RopeConfig::Type::kYarn) {
    absl::StrAppend(&text, " original ", r.original_context, " beta_fast ", Exact(r.beta_fast), " beta_slow ",
                    Exact(r.beta_slow), " attention_factor ", Exact(r.attention_factor), " mscale ", Exact(r.mscale));
    absl::StrAppend(&text, " mscale_all_dim ", Exact(r.mscale_all_dim), " truncate ", r.truncate ? 1 : 0);
  }
  absl::StrAppend(&text, "\nfrequency_divisors");
  for (const float divisor : r.frequency_divisors) absl::StrAppend(&text, " ", Exact(divisor));
  absl::StrAppend(&text, "\nwindow ", absl::StrJoin(window, " "), "\n");
  return text;
}

absl::Status ModelConfig::Validate() const {
  const struct {
    absl::string_view field;
    int64_t value, low, high;
  } ranges[] = {{"layers", layers, 1, kMaxLayers},
                {"hidden", hidden, 1, kMaxWidth},
                {"intermediate", intermediate, 1, kMaxWidth},
                {"heads", heads, 1, 4096},
                {"kv_heads", kv_heads, 1, 4096},
                {"head_dim", head_dim, 2, 4096},
                {"vocab", vocab, 1, kMaxVocab},
                {"context", context, 1, kMaxContext},
                {"heads * head_dim", heads * head_dim, 1, kMaxWidth}};
  for (const auto& r : ranges) {
    if (absl::Status status = CheckRange(r.field, r.value, r.low, r.high); !status.ok()) return status;
  }
  if (heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: heads ", heads, " is not a multiple of kv_heads ", kv_heads));
  }
  if (head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: head_dim ", head_dim, " is odd"));
  }
  if (!(rms_eps >= 0 && rms_eps < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: rms_eps is ", rms_eps, ", expected 0 or more and less than 1"));
  }
  if (rope.rotary_dim < 2 || rope.rotary_dim > head_dim || rope.rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: rotary_dim is ", rope.rotary_dim,
                                                   ", expected an even number up to head_dim ", head_dim));
  }
  if (!std::isfinite(rope.theta) || rope.theta <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: rope theta is ", rope.theta));
  }
  if (static_cast<int64_t>(window.size()) != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: windows for ", window.size(), " of ", layers, " layers"));
  }
  for (const int64_t w : window) {
    if (absl::Status status = CheckRange("sliding window", w, 0, kMaxContext); !status.ok()) return status;
  }
  for (const int32_t id : end_of_sequence) {
    if (absl::Status status = CheckRange("end-of-sequence token id", id, 0, vocab - 1); !status.ok()) return status;
  }
  return CheckRange("beginning-of-sequence token id", bos, -1, vocab - 1);
}

}  // namespace kvlink::model
