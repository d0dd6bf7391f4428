// XXH3-64 of ranges, one warp each. Within a block of 1024 bytes the stripes are only summed: lane l takes word l % 8
// of every fourth stripe from stripe l / 8 on, so that each load of the warp covers 256 consecutive bytes. Blocks are
// processed in sequence.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/slabs/xxh3.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSteps = 4;  // stripes of a block per lane

// The contribution of a block's first `stripes` stripes to the sum of lane l's word, l % 8.
KVLINK_DEVICE uint64_t SumStripes(const uint64_t (&words)[kSteps], const uint64_t (&secret)[kSteps], int64_t stripes) {
  const int group = ThreadIndex() % 32 / 8;
  uint64_t products = 0, plain = 0;
  for (int j = 0; j < kSteps; ++j) {
    if (group + 4 * j >= stripes) continue;
    products += xxh3::MultiplyHalves(words[j] ^ secret[j]);
    plain += words[j];
  }
  uint64_t sum = products + ShuffleXor(plain, 1);  // a word is added to its neighbour's sum
  sum += ShuffleXor(sum, 8);
  return sum + ShuffleXor(sum, 16);
}

KVLINK_DEVICE void LoadStripes(const unsigned char* block, int64_t stripes, uint64_t (&words)[kSteps]) {
  const int word = ThreadIndex() % 8, group = ThreadIndex() % 32 / 8;
  for (int j = 0; j < kSteps; ++j) {
    const int64_t stripe = group + 4 * j;
    words[j] = stripe < stripes ? xxh3::Read64(block + stripe * xxh3::kStripe + 8 * word) : 0;
  }
}

KVLINK_DEVICE uint64_t OfLong(const unsigned char* in, int64_t length) {
  const int word = ThreadIndex() % 8, group = ThreadIndex() % 32 / 8;
  uint64_t secret[kSteps], words[kSteps], next[kSteps];
  for (int j = 0; j < kSteps; ++j) secret[j] = xxh3::kSecret[group + 4 * j + word];
  const int64_t blocks = (length - 1) / xxh3::kBlockBytes;
  const int64_t rest = (length - 1 - blocks * xxh3::kBlockBytes) / xxh3::kStripe;  // stripes of the last block
  uint64_t sum = xxh3::kStarts[word];
  LoadStripes(in, blocks > 0 ? xxh3::kStripes : rest, words);
  for (int64_t block = 0; block < blocks; ++block) {
    LoadStripes(in + (block + 1) * xxh3::kBlockBytes, block + 1 < blocks ? xxh3::kStripes : rest, next);
    sum = xxh3::Scramble(sum + SumStripes(words, secret, xxh3::kStripes), xxh3::kSecret[16 + word]);
    for (int j = 0; j < kSteps; ++j) words[j] = next[j];
  }
  sum += SumStripes(words, secret, rest);
  // The last 64 bytes are a stripe of their own, even if partly read before.
  const uint64_t last = xxh3::Read64(in + length - xxh3::kStripe + 8 * word);
  sum += xxh3::MultiplyHalves(last ^ xxh3::Secret(121 + 8 * word)) + ShuffleXor(last, 1);
  const uint64_t keyed = sum ^ xxh3::Secret(11 + 8 * word);
  uint64_t folded = xxh3::Fold(keyed, ShuffleXor(keyed, 1));  // the same in lanes 2i and 2i + 1
  folded += ShuffleXor(folded, 2);
  folded += ShuffleXor(folded, 4);
  return xxh3::Avalanche(static_cast<uint64_t>(length) * xxh3::kPrime64_1 + folded);
}

KVLINK_KERNEL(kThreads, 4) ChecksumKernel(ChecksumLaunch l) {
  const int64_t range = BlockX() * (kThreads / 32) + ThreadIndex() / 32;
  if (range >= l.count) return;
  const unsigned char* in = l.bytes + l.ranges[2 * range];
  const int64_t length = l.ranges[2 * range + 1];
  const bool first = ThreadIndex() % 32 == 0;
  if (length <= xxh3::kShort) {
    if (first) l.out[range] = xxh3::OfShort(in, length);
    return;
  }
  const uint64_t sum = OfLong(in, length);
  if (first) l.out[range] = sum;
}

}  // namespace

int LaunchChecksum(void* stream, const ChecksumLaunch& launch) {
  constexpr int64_t kWarps = kThreads / 32;
  return Launch(stream, (launch.count + kWarps - 1) / kWarps, 1, kThreads, 0, ChecksumKernel, launch);
}

}  // namespace kvlink::kernels::cuda
