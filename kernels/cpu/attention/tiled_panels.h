// The two products of a wide tile in bf16 tiles (bf16/tiles.h), for segments stored as raw-bf16: queries are rounded to
// bf16 after rotation, exponentials after evaluation; sums are f32. Masks, softmax and merging are those of the f32
// form.
//
//   scores[token][lane] = keys[token][dim] queries[dim][lane]         keys are read in place
//   sums[dim][lane]     = values^T[dim][token] weights[token][lane]   values are transposed once for all panels
//
// Measured by AVX512_BF16 on Zen 5: 1.4 to 1.7 times the rate of f32 from 16 rows on, 0.9 to 1.5 times for 4.
#ifndef KVLINK_KERNELS_CPU_ATTENTION_TILED_PANELS_H_
#define KVLINK_KERNELS_CPU_ATTENTION_TILED_PANELS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/attention_plan.h"
#include "kernels/cpu/attention/attention_reader.h"
#include "kernels/cpu/attention/attention_simd.h"
#include "kernels/cpu/bf16/tiles.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// A WideTile's queries, keys and values as bf16 tiles. Tokens are counted from the beginning of the split. The arena
// provides the memory; not thread-safe.
class TiledPanels {
 public:
  // If `multiply` is nullptr, it takes no segment and no memory.
  TiledPanels(MultiplyTiles multiply, const AttentionSizes& sizes, int64_t max_rows, Arena& arena);

  bool Takes(const KvSegment& segment) const { return multiply_ != nullptr && segment.codec == Codec::kRawBf16; }
  // Sets the queries[dim][width] of panel p.
  void TakeQueries(int64_t p, const float* queries, int64_t width);
  // Loads block `block` of the segment, of which the first `count` tokens may be read, as block `in_split` of the
  // split; its values only with `values`. Keys may be used in place: the segment must stay until the next split.
  void TakeBlock(const SegmentReader& reader, int64_t block, int64_t in_split, int64_t count, bool values);
  // Computes panel p's scores over tokens [begin, end), somewhere in `scratch` [kSplitTokens][width]; returns their
  // place.
  float* Scores(int64_t p, int64_t begin, int64_t end, int64_t width, float* scratch) const;
  // sums[dim][width] = values times the softmax output in the same scratch, which this overwrites.
  void Values(float* scratch, int64_t begin, int64_t end, int64_t width, float* sums) const;

 private:
  static constexpr int64_t kBlocks = kSplitTokens / kBlockTokens;
  struct Keys {
    const std::byte* rows = nullptr;
    int64_t stride = 0;  // bytes
  };

  const MultiplyTiles multiply_;
  const AttentionSizes& sizes_;
  const AttentionKernels& kernels_;
  const int64_t steps_;              // of kTileDepth, of a head's dimensions
  const int64_t panel_tiles_;        // of kTileSide lanes
  uint32_t* queries_ = nullptr;      // [panel][tile of lanes][steps_][16 pairs][16]
  uint16_t* copied_keys_ = nullptr;  // [kSplitTokens][steps_ * kTileDepth]
  uint16_t* values_ = nullptr;       // [step of tokens][padded dim][kTileDepth]
  uint32_t* weights_ = nullptr;      // [tile of lanes][step of tokens][16 pairs][16]
  Keys keys_[kBlocks];
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_TILED_PANELS_H_
