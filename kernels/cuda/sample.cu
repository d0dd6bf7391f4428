// Sampling, one thread block per row, by the rule of kernels/sampling.h. The tokens kept by top_k and top_p are given
// by a threshold: all logits above some value, and of those equal to it the first few by id. Four passes over the row
// find it; each determines 8 bits of the value (as in a radix sort), by counts for top_k and by weights for top_p.
#include <cmath>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"
#include "kernels/philox.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 256;

// Ascending in the logits; NaN as -inf, both zeros equal.
KVLINK_DEVICE uint32_t Key(float logit) {
  if (isnan(logit)) logit = -INFINITY;
  if (logit == 0) logit = 0;
  const uint32_t bits = FloatToBits(logit);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
KVLINK_DEVICE float OfKey(uint32_t key) { return BitsToFloat(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu)); }
constexpr uint32_t kNothing = 0x007fffffu;  // Key(-inf)
constexpr int32_t kNoToken = -1;            // as in kernels.h

// The remaining tokens: key > threshold, and the first `ties` in order of id whose key equals the threshold.
struct Kept {
  uint32_t threshold = kNothing;
  int64_t ties = 0;
};

struct Shared {
  double weights[kBins];
  double sums[kThreads];
  double warp_sums[kThreads / 32];
  uint32_t counts[kBins];
  uint32_t best_key[kThreads / 32];
  int32_t best_id[kThreads / 32];
  // Written by the deciding thread, for all.
  uint32_t prefix;
  int64_t ties;
  double wanted;  // still to be reached
  int32_t token;
};

struct Row {
  const float* logits;
  int64_t vocab;
  SampleRowParams params;
  float largest;
  Shared& shared;

  KVLINK_DEVICE double Weight(float logit) const {
    if (logit == largest) return 1;
    return exp((static_cast<double>(logit) - static_cast<double>(largest)) / static_cast<double>(params.temperature));
  }

  // Narrows `kept` to its first ranks: the first `wanted` of them (by_count), or as many as reach the weight `wanted`,
  // at least one. `wanted` must be positive and not exceed what is kept.
  KVLINK_DEVICE Kept FirstRanks(const Kept& kept, double wanted, bool by_count) {
    if (ThreadIndex() == 0) {
      shared.prefix = 0;
      shared.wanted = wanted;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = ThreadIndex(); i < kBins; i += kThreads) {
        shared.weights[i] = 0;
        shared.counts[i] = 0;
      }
      SyncThreads();
      const uint32_t prefix = shared.prefix, above = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
      for (int64_t id = ThreadIndex(); id < vocab; id += kThreads) {
        const uint32_t key = Key(logits[id]);
        if (key <= kept.threshold || (key & above) != prefix) continue;
        AtomicAdd(&shared.counts[key >> shift & 255], 1);
        if (!by_count) AtomicAdd(&shared.weights[key >> shift & 255], Weight(logits[id]));
      }
      if (ThreadIndex() == 0 && kept.ties > 0 && (kept.threshold & above) == prefix) {
        const uint32_t bin = kept.threshold >> shift & 255;
        AtomicAdd(&shared.counts[bin], static_cast<uint32_t>(kept.ties));
        if (!by_count) AtomicAdd(&shared.weights[bin], static_cast<double>(kept.ties) * Weight(OfKey(kept.threshold)));
      }
      SyncThreads();
      if (ThreadIndex() == 0) Descend(shift, by_count);
      SyncThreads();
    }
    return {shared.prefix, shared.ties};
  }

  // On one thread: finds the bin in which `wanted` is reached. Rounding may leave the sum of weights short of `wanted`;
  // then it is the last non-empty bin.
  KVLINK_DEVICE void Descend(int shift, bool by_count) {
    int found = -1;
    double before = 0;  // of the bins above
    double reached = 0;
    for (int bin = kBins - 1; bin >= 0; --bin) {
      if (shared.counts[bin] == 0) continue;
      found = bin;
      before = reached;
      reached += by_count ? static_cast<double>(shared.counts[bin]) : shared.weights[bin];
      if (reached >= shared.wanted) break;
    }
    shared.prefix |= static_cast<uint32_t>(found) << shift;
    shared.wanted -= before;
    if (shift > 0) return;
    const int64_t count = shared.counts[found];
    if (by_count) {
      shared.ties = static_cast<int64_t>(shared.wanted);
      return;
    }
    const double weight = Weight(OfKey(shared.prefix));
    shared.ties = 0;
    for (double sum = 0; shared.ties < count && (shared.ties == 0 || sum < shared.wanted); sum += weight) ++shared.ties;
  }

  KVLINK_DEVICE void Range(int64_t* begin, int64_t* end) const {
    const int64_t share = (vocab + kThreads - 1) / kThreads;
    *begin = ThreadIndex() * share < vocab ? ThreadIndex() * share : vocab;
    *end = *begin + share < vocab ? *begin + share : vocab;
  }
  // Sums over the threads' values: before this thread's, including it, and of all. The end of one thread equals the
  // begin of the next to the bit.
  struct Sums {
    double before, with, total;
  };
  KVLINK_DEVICE Sums Scan(double own) {
    const int thread = ThreadIndex(), lane = thread % 32, warp = thread / 32;
    SyncThreads();
    shared.sums[thread] = own;
    SyncThreads();
    if (lane == 0) {
      double sum = 0;
      for (int i = 0; i < 32; ++i) {
        const double next = sum + shared.sums[thread + i];
        shared.sums[thread + i] = sum;
        sum = next;
      }
      shared.warp_sums[warp] = sum;
    }
    SyncThreads();
    Sums sums{0, 0, 0};
    double base = 0;
    for (int i = 0; i < kThreads / 32; ++i) {
      if (i == warp) base = sums.total;
      sums.total += shared.warp_sums[i];
    }
    sums.before = base + shared.sums[thread];
    sums.with = base + (lane == 31 ? shared.warp_sums[warp] : shared.sums[thread + 1]);
    return sums;
  }

  // Calls visit(id, weight) for this thread's share of the kept tokens, in order; `ties` were used by earlier threads.
  template <typename F>
  KVLINK_DEVICE void EachKept(const Kept& kept, int64_t ties, const F& visit) const {
    int64_t begin, end;
    Range(&begin, &end);
    for (int64_t id = begin; id < end; ++id) {
      const uint32_t key = Key(logits[id]);
      if (key < kept.threshold || (key == kept.threshold && ties++ >= kept.ties)) continue;
      const double weight = Weight(logits[id]);
      if (weight >= static_cast<double>(params.min_p)) visit(id, weight);
    }
  }

  KVLINK_DEVICE void Draw(const Kept& kept) {
    int64_t begin, end;
    Range(&begin, &end);
    double own = 0;
    for (int64_t id = begin; id < end; ++id) own += Key(logits[id]) == kept.threshold ? 1 : 0;
    const int64_t ties = static_cast<int64_t>(Scan(own).before);
    own = 0;
    EachKept(kept, ties, [&](int64_t, double weight) { own += weight; });
    const Sums sums = Scan(own);
    const double target = PhiloxUniform(params.seed, static_cast<uint64_t>(params.position)) * sums.total;
    // One thread's share contains the target (no thread's if it rounds up to the total: then the best token stays).
    if (target < sums.before || !(target < sums.with)) return;
    double reached = sums.before;
    int64_t token = -1;
    EachKept(kept, ties, [&](int64_t id, double weight) {
      if (token < 0 || !(target < reached)) token = id;
      reached += weight;
    });
    if (token >= 0) shared.token = static_cast<int32_t>(token);
  }
};

// Finds the largest key and the lowest id with it, for all threads: of all tokens, or (`after`) of those that rank
// behind *best_key and *best_id.
KVLINK_DEVICE void FindBest(const float* logits, int64_t vocab, bool after, Shared& shared, uint32_t* best_key,
                            int32_t* best_id) {
  uint32_t key = 0;
  int32_t id = 0;
  const auto take = [&](uint32_t other_key, int32_t other_id) {
    if (other_key > key || (other_key == key && other_id < id)) {
      key = other_key;
      id = other_id;
    }
  };
  for (int64_t i = ThreadIndex(); i < vocab; i += kThreads) {
    const uint32_t own = Key(logits[i]);
    if (after && (own > *best_key || (own == *best_key && i <= *best_id))) continue;
    take(own, static_cast<int32_t>(i));
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint32_t other_key = ShuffleXor(key, mask);
    take(other_key, ShuffleXor(id, mask));
  }
  if (ThreadIndex() % 32 == 0) {
    shared.best_key[ThreadIndex() / 32] = key;
    shared.best_id[ThreadIndex() / 32] = id;
  }
  SyncThreads();
  for (int i = 0; i < kThreads / 32; ++i) take(shared.best_key[i], shared.best_id[i]);
  *best_key = key;
  *best_id = id;
}

KVLINK_KERNEL(kThreads, 2) SampleKernel(SampleLaunch l) {
  Shared& shared = *reinterpret_cast<Shared*>(SharedMemory());
  const int64_t row = BlockX();
  const SampleRowParams params = l.params[row];
  const float* logits = params.adjusted < 0 ? l.logits + row * l.stride : l.adjusted + params.adjusted * l.vocab;
  uint32_t best_key;
  int32_t best_id;
  FindBest(logits, l.vocab, /*after=*/false, shared, &best_key, &best_id);
  if (best_key <= kNothing) {
    if (ThreadIndex() == 0) l.out[row] = kNoToken;
    return;
  }
  if (params.temperature <= 0) {
    if (ThreadIndex() == 0) l.out[row] = best_id;
    return;
  }
  Row sampled{logits, l.vocab, params, OfKey(best_key), shared};
  if (ThreadIndex() == 0) shared.token = best_id;
  Kept kept;
  double count = 0, weight = 0;
  for (int64_t id = ThreadIndex(); id < l.vocab; id += kThreads) count += Key(logits[id]) > kNothing ? 1 : 0;
  if (params.top_k > 0 && static_cast<double>(params.top_k) < sampled.Scan(count).total) {
    kept = sampled.FirstRanks(kept, static_cast<double>(params.top_k), /*by_count=*/true);
  }
  if (params.top_p < 1) {
    for (int64_t id = ThreadIndex(); id < l.vocab; id += kThreads) {
      if (Key(logits[id]) > kept.threshold) weight += sampled.Weight(logits[id]);
    }
    double total = sampled.Scan(weight).total;
    if (kept.ties > 0) total += static_cast<double>(kept.ties) * sampled.Weight(OfKey(kept.threshold));
    SyncThreads();
    kept = sampled.FirstRanks(kept, static_cast<double>(params.top_p) * total, /*by_count=*/false);
  }
  sampled.Draw(kept);
  SyncThreads();
  if (ThreadIndex() == 0) l.out[row] = shared.token;
}

KVLINK_KERNEL(kThreads, 2) MaskKernel(MaskLaunch l) {
  const uint32_t* mask = l.masks + BlockX() * (1 + l.words);
  float* adjusted = l.adjusted + static_cast<int64_t>(mask[0]) * l.vocab;
  for (int64_t id = ThreadIndex(); id < l.vocab; id += kThreads) {
    if ((mask[1 + id / 32] >> (id % 32) & 1) == 0) adjusted[id] = -INFINITY;
  }
}

KVLINK_KERNEL(kThreads, 2) AdjustKernel(AdjustLaunch l) {
  const int64_t i = BlockX() * kThreads + ThreadIndex();
  if (i >= l.count) return;
  float& logit = l.adjusted[l.adjustments[i].place];
  logit = AdjustedLogit(logit, l.adjustments[i].adjustment);
}

// The sums of threads are added in their order.
KVLINK_KERNEL(kThreads, 2) LogprobsKernel(LogprobsLaunch l) {
  Shared& shared = *reinterpret_cast<Shared*>(SharedMemory());
  const int64_t row = l.rows[BlockX()];
  const float* logits = l.logits + row * l.stride;
  float* out = l.out + BlockX() * l.out_stride;
  int32_t* likeliest = l.likeliest + BlockX() * l.likeliest_stride;
  uint32_t key;
  int32_t id;
  FindBest(logits, l.vocab, /*after=*/false, shared, &key, &id);
  const bool any = key > kNothing;
  const float largest = OfKey(key);
  const auto exponent = [&](float logit) {
    return logit == largest ? 0 : static_cast<double>(logit) - static_cast<double>(largest);
  };
  double sum = 0;
  for (int64_t i = ThreadIndex(); any && i < l.vocab; i += kThreads) {
    if (Key(logits[i]) > kNothing) sum += exp(exponent(logits[i]));
  }
  shared.sums[ThreadIndex()] = sum;
  SyncThreads();
  double normaliser = 0;
  for (int i = 0; i < kThreads; ++i) normaliser += shared.sums[i];
  normaliser = log(normaliser);
  const auto logprob = [&](int64_t of) {
    return any && Key(logits[of]) > kNothing ? static_cast<float>(exponent(logits[of]) - normaliser) : -INFINITY;
  };
  const int32_t token = l.tokens[row];
  if (ThreadIndex() == 0) out[0] = token >= 0 && token < l.vocab ? logprob(token) : -INFINITY;
  for (int64_t rank = 0; rank < l.top; ++rank) {
    if (rank > 0) FindBest(logits, l.vocab, /*after=*/true, shared, &key, &id);
    SyncThreads();  // all have read what the next search writes
    const bool there = key > kNothing;
    if (ThreadIndex() > 0) continue;
    out[1 + rank] = there ? logprob(id) : -INFINITY;
    likeliest[rank] = there ? id : kNoToken;
  }
}

}  // namespace

int LaunchMask(void* stream, const MaskLaunch& launch) {
  return Launch(stream, launch.rows, 1, kThreads, 0, MaskKernel, launch);
}

int LaunchAdjust(void* stream, const AdjustLaunch& launch) {
  return Launch(stream, (launch.count + kThreads - 1) / kThreads, 1, kThreads, 0, AdjustKernel, launch);
}

int LaunchLogprobs(void* stream, const LogprobsLaunch& launch) {
  return Launch(stream, launch.count, 1, kThreads, sizeof(Shared), LogprobsKernel, launch);
}

int LaunchSample(void* stream, const SampleLaunch& launch) {
  return Launch(stream, launch.rows, 1, kThreads, sizeof(Shared), SampleKernel, launch);
}

}  // namespace kvlink::kernels::cuda
