// Rotary position embedding: frequencies of each rope type, and rotation angles computed in f64.
//
// For the pair (i, i + rotary_dim/2) (rotate-half order) at position p the angle is p * inv_freq[i]. Every type here is
// linear in p, so linked attention can shift the query instead of the keys; other types are refused. Sources: RoFormer
// (arXiv 2104.09864); llama3 scaling as published with Llama 3.1; YaRN (arXiv 2309.00071) section 3.
// Thread-safety: immutable values.
#ifndef KVLINK_KERNELS_ROPE_H_
#define KVLINK_KERNELS_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::kernels {

struct RopeConfig {
  enum class Type : uint8_t { kDefault, kLinear, kLlama3, kYarn };
  Type type = Type::kDefault;
  double theta = 10000;
  int64_t rotary_dim = 0;  // even, <= head_dim
  double factor = 1;
  // llama3
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_context = 0;  // llama3 and yarn
  // yarn
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  // 0: derived, 0.1 * ln(factor) + 1, or from mscale / mscale_all_dim if both are set
  double mscale = 0;
  double mscale_all_dim = 0;
  bool truncate = true;  // yarn: floor and ceil the correction range
  // Divisors of the default frequencies, from a GGUF's rope_freqs.weight; empty: none. [rotary_dim / 2]. They contain
  // all of a llama3 scaling, so the type must be kDefault or kLinear.
  std::vector<float> frequency_divisors;
};

struct Rope {
  int64_t rotary_dim = 0;
  std::vector<double> inv_freq;  // [rotary_dim / 2]
  // Multiplies a rotated query once and a rotated key once (YaRN); 1 elsewhere. Key shift does not apply it.
  double attention_factor = 1;

  // cos and sin of position * inv_freq[i], each [rotary_dim / 2], computed in f64 and rounded once.
  void Angles(int64_t position, absl::Span<float> cosine, absl::Span<float> sine) const;
};

// INVALID_ARGUMENT for an inconsistent config.
absl::StatusOr<Rope> MakeRope(const RopeConfig& config);

// "default", "linear", "llama3", "yarn". UNIMPLEMENTED for dynamic, longrope, mrope, ...: their angles depend on more
// than the position, so the keys of a document cached alone cannot be shifted.
absl::StatusOr<RopeConfig::Type> ParseRopeType(absl::string_view name);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_ROPE_H_
