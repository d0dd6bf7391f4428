// Frequencies of each rope type in f64. Angles are computed in f64 and rounded once, because f32 angles are off by
// thousandths at positions of some thousands.
#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvlink::kernels {
namespace {

absl::Status Invalid(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("rope: ", what)); }

bool Positive(double value) { return std::isfinite(value) && value > 0; }

absl::Status Validate(const RopeConfig& config) {
  using Type = RopeConfig::Type;
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0 || config.rotary_dim > 4096) {
    return Invalid(absl::StrCat("rotary_dim is ", config.rotary_dim, "; it must be even, from 2 to 4096"));
  }
  if (!Positive(config.theta)) return Invalid(absl::StrCat("theta is ", config.theta, "; it must be positive"));
  if (config.type != Type::kDefault && !(Positive(config.factor) && config.factor >= 1)) {
    return Invalid(absl::StrCat("factor is ", config.factor, "; it must be at least 1"));
  }
  if ((config.type == Type::kLlama3 || config.type == Type::kYarn) && config.original_context < 1) {
    return Invalid(
        absl::StrCat("original_max_position_embeddings is ", config.original_context, "; it must be positive"));
  }
  if (config.type == Type::kLlama3 && !(Positive(config.low_freq_factor) && Positive(config.high_freq_factor) &&
                                        config.high_freq_factor > config.low_freq_factor)) {
    return Invalid(absl::StrCat("low_freq_factor ", config.low_freq_factor, " must be below high_freq_factor ",
                                config.high_freq_factor, ", both positive"));
  }
  if (config.type == Type::kYarn) {
    if (config.theta <= 1) return Invalid(absl::StrCat("theta is ", config.theta, "; yarn needs more than 1"));
    if (!Positive(config.beta_fast) || !Positive(config.beta_slow)) {
      return Invalid(
          absl::StrCat("beta_fast ", config.beta_fast, " and beta_slow ", config.beta_slow, " must be positive"));
    }
    for (double value : {config.attention_factor, config.mscale, config.mscale_all_dim}) {
      if (!std::isfinite(value) || value < 0) {
        return Invalid(absl::StrCat("attention_factor ", config.attention_factor, ", mscale ", config.mscale,
                                    " and mscale_all_dim ", config.mscale_all_dim, " must not be negative"));
      }
    }
  }
  const auto& divisors = config.frequency_divisors;
  if (!divisors.empty()) {
    if (config.type != Type::kDefault && config.type != Type::kLinear) {
      return Invalid("frequency divisors already hold the scaling; the type must be default or linear");
    }
    if (static_cast<int64_t>(divisors.size()) != config.rotary_dim / 2) {
      return Invalid(absl::StrCat(divisors.size(), " frequency divisors for rotary_dim ", config.rotary_dim));
    }
    if (!std::all_of(divisors.begin(), divisors.end(), [](float d) { return Positive(d); })) {
      return Invalid("a frequency divisor is not positive");
    }
  }
  return absl::OkStatus();
}

// Divides low frequencies by the factor, keeps high ones, and blends those in between by wavelength.
void ScaleLlama3(const RopeConfig& config, std::vector<double>& frequencies) {
  const double context = static_cast<double>(config.original_context);
  for (double& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < context / config.high_freq_factor) continue;
    if (wavelength > context / config.low_freq_factor) {
      frequency /= config.factor;
      continue;
    }
    const double smooth =
        (context / wavelength - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
    frequency = (1 - smooth) * frequency / config.factor + smooth * frequency;
  }
}

// The dimension whose pair completes `rotations` turns over the original context (YaRN section 3.2).
double CorrectionDimension(const RopeConfig& config, double rotations) {
  return static_cast<double>(config.rotary_dim) *
         std::log(static_cast<double>(config.original_context) / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.theta));
}

void ScaleYarn(const RopeConfig& config, std::vector<double>& frequencies) {
  double low = CorrectionDimension(config, config.beta_fast);
  double high = CorrectionDimension(config, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.rotary_dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / config.factor * ramp + frequencies[i] * (1 - ramp);
  }
}

double YarnMscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

double YarnAttentionFactor(const RopeConfig& config) {
  if (config.attention_factor > 0) return config.attention_factor;
  if (config.mscale > 0 && config.mscale_all_dim > 0) {
    return YarnMscale(config.factor, config.mscale) / YarnMscale(config.factor, config.mscale_all_dim);
  }
  return YarnMscale(config.factor, 1);
}

}  // namespace

void Rope::Angles(int64_t position, absl::Span<float> cosine, absl::Span<float> sine) const {
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double angle = static_cast<double>(position) * inv_freq[i];
    cosine[i] = static_cast<float>(std::cos(angle));
    sine[i] = static_cast<float>(std::sin(angle));
  }
}

absl::StatusOr<Rope> MakeRope(const RopeConfig& config) {
  if (absl::Status status = Validate(config); !status.ok()) return status;
  Rope rope;
  rope.rotary_dim = config.rotary_dim;
  rope.inv_freq.resize(static_cast<size_t>(config.rotary_dim / 2));
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    rope.inv_freq[i] =
        1.0 / std::pow(config.theta, 2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim));
    if (!config.frequency_divisors.empty()) rope.inv_freq[i] /= static_cast<double>(config.frequency_divisors[i]);
  }
  switch (config.type) {
    case RopeConfig::Type::kDefault:
      break;
    case RopeConfig::Type::kLinear:
      for (double& frequency : rope.inv_freq) frequency /= config.factor;
      break;
    case RopeConfig::Type::kLlama3:
      ScaleLlama3(config, rope.inv_freq);
      break;
    case RopeConfig::Type::kYarn:
      ScaleYarn(config, rope.inv_freq);
      rope.attention_factor = YarnAttentionFactor(config);
      break;
  }
  return rope;
}

absl::StatusOr<RopeConfig::Type> ParseRopeType(absl::string_view name) {
  if (name == "default") return RopeConfig::Type::kDefault;
  if (name == "linear") return RopeConfig::Type::kLinear;
  if (name == "llama3") return RopeConfig::Type::kLlama3;
  if (name == "yarn") return RopeConfig::Type::kYarn;
  return absl::UnimplementedError(
      absl::StrCat("rope type '", name,
                   "' is not supported: keys cached alone can be shifted only where angles are linear in the "
                   "position (default, linear, llama3, yarn)"));
}

}  // namespace kvlink::kernels
