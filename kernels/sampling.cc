// Sampling on which all backends agree to the bit: candidates in a fixed order, sums in f64, one Philox number.
#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/philox.h"

namespace kvlink::kernels {
namespace {

// A heap with this order pops the largest logit first, ties by lower id.
bool RanksBelow(const SampleCandidate& a, const SampleCandidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

class Weigher {
 public:
  Weigher(float largest, float temperature) : largest_(largest), temperature_(temperature) {}
  double operator()(float logit) const { return std::exp(Exponent(logit)); }
  double Exponent(float logit) const {
    if (logit == largest_) return 0;  // also if both are +inf
    return (static_cast<double>(logit) - static_cast<double>(largest_)) / static_cast<double>(temperature_);
  }
  double Sum(absl::Span<const SampleCandidate> candidates) const {
    double sum = 0;
    for (const SampleCandidate& candidate : candidates) sum += (*this)(candidate.logit);
    return sum;
  }

 private:
  const float largest_;
  const float temperature_;
};

std::optional<int32_t> Greedy(absl::Span<const float> logits) {
  float best = -std::numeric_limits<float>::infinity();
  std::optional<int32_t> id;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > best) {
      best = logits[i];
      id = static_cast<int32_t>(i);
    }
  }
  return id;
}

// Returns the first ranks, those kept by top_k and top_p: the tail of `candidates`, lowest rank first.
absl::Span<SampleCandidate> KeepFirstRanks(absl::Span<SampleCandidate> candidates, const SampleParams& params,
                                           const Weigher& weigh) {
  const size_t count = candidates.size();
  const bool by_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < count;
  if (!by_k && params.top_p >= 1) return candidates;
  const size_t most = by_k ? static_cast<size_t>(params.top_k) : count;
  double total = by_k ? 0 : weigh.Sum(candidates);
  std::make_heap(candidates.begin(), candidates.end(), RanksBelow);
  size_t popped = 0;
  const auto pop = [&] {
    std::pop_heap(candidates.begin(), candidates.end() - static_cast<int64_t>(popped), RanksBelow);
    ++popped;
    return weigh(candidates[count - popped].logit);
  };
  if (by_k) {
    while (popped < most) total += pop();
    if (params.top_p >= 1) return candidates.subspan(count - popped);
  }
  const double wanted = static_cast<double>(params.top_p) * total;
  double reached = 0;
  size_t kept = 0;
  while (kept < most && (kept == 0 || reached < wanted)) {
    if (kept == popped) pop();
    ++kept;
    reached += weigh(candidates[count - kept].logit);
  }
  return candidates.subspan(count - kept, kept);
}

// Fills `likeliest` with the first ranks, and kNoToken where there are no more.
void RankFirst(absl::Span<const float> logits, absl::Span<int32_t> likeliest) {
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > -std::numeric_limits<float>::infinity())) continue;
    const auto before = [&](size_t place) { return logits[static_cast<size_t>(likeliest[place])] < logits[i]; };
    if (count == likeliest.size() && (count == 0 || !before(count - 1))) continue;
    size_t place = count < likeliest.size() ? count++ : count - 1;
    for (; place > 0 && before(place - 1); --place) likeliest[place] = likeliest[place - 1];
    likeliest[place] = static_cast<int32_t>(i);
  }
  for (; count < likeliest.size(); ++count) likeliest[count] = kNoToken;
}

// `out`: of `token`, then of the likeliest.
void LogprobsRow(absl::Span<const float> logits, int32_t token, absl::Span<float> out, absl::Span<int32_t> likeliest) {
  const std::optional<int32_t> best = Greedy(logits);
  RankFirst(logits, likeliest);
  std::fill(out.begin(), out.end(), -std::numeric_limits<float>::infinity());
  if (!best.has_value()) return;
  const Weigher weigh(logits[static_cast<size_t>(*best)], 1);
  double sum = 0;
  for (const float logit : logits) {
    if (logit > -std::numeric_limits<float>::infinity()) sum += weigh(logit);
  }
  const double normaliser = std::log(sum);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(weigh.Exponent(logits[static_cast<size_t>(id)]) - normaliser);
  };
  if (token >= 0 && static_cast<size_t>(token) < logits.size() && !std::isnan(logits[static_cast<size_t>(token)])) {
    out[0] = logprob(token);
  }
  for (size_t i = 0; i < likeliest.size() && likeliest[i] != kNoToken; ++i) out[1 + i] = logprob(likeliest[i]);
}

}  // namespace

void AdjustLogits(absl::Span<const float> logits, const RowAdjustments& adjustments, absl::Span<float> out) {
  std::copy(logits.begin(), logits.end(), out.begin());
  for (const LogitAdjustment& adjustment : adjustments.tokens) {
    float& logit = out[static_cast<size_t>(adjustment.token)];
    logit = AdjustedLogit(logit, adjustment);
  }
  if (adjustments.allowed == nullptr) return;
  for (size_t i = 0; i < out.size(); ++i) {
    if ((adjustments.allowed[i / 32] >> (i % 32) & 1) == 0) out[i] = -std::numeric_limits<float>::infinity();
  }
}

void LogprobsOf(const LogprobsArgs& args, int64_t index) {
  const int64_t row = args.rows[static_cast<size_t>(index)];
  const auto top = static_cast<size_t>(args.top);
  const absl::Span<int32_t> likeliest(args.likeliest.as<int32_t>() + index * args.likeliest.strides[0], top);
  LogprobsRow({args.logits.as<const float>() + row * args.logits.strides[0], static_cast<size_t>(args.logits.sizes[1])},
              args.tokens.as<const int32_t>()[row], {args.out.as<float>() + index * args.out.strides[0], 1 + top},
              likeliest);
}

int64_t AdjustedRows(const SampleArgs& args) {
  return std::count_if(args.adjustments.begin(), args.adjustments.end(), [](const auto& row) { return row.any(); });
}

std::optional<int32_t> SampleRow(absl::Span<const float> logits, const SampleParams& params,
                                 absl::Span<SampleCandidate> scratch) {
  const std::optional<int32_t> best = Greedy(logits);
  if (!best.has_value() || params.temperature <= 0) return best;
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity()) scratch[count++] = {logits[i], static_cast<int32_t>(i)};
  }
  const Weigher weigh(logits[static_cast<size_t>(*best)], params.temperature);
  absl::Span<SampleCandidate> kept = KeepFirstRanks(scratch.first(count), params, weigh);
  if (params.min_p > 0) {
    const auto end = std::remove_if(kept.begin(), kept.end(), [&](const SampleCandidate& candidate) {
      return weigh(candidate.logit) < static_cast<double>(params.min_p);
    });
    kept = kept.first(static_cast<size_t>(end - kept.begin()));
  }
  if (kept.size() < count) {
    std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  }
  const double target = PhiloxUniform(params.seed, static_cast<uint64_t>(params.position)) * weigh.Sum(kept);
  double reached = 0;
  for (const SampleCandidate& candidate : kept) {
    reached += weigh(candidate.logit);
    if (target < reached) return candidate.id;
  }
  return best;  // only if u * total rounds up to the total
}

}  // namespace kvlink::kernels
