// The vector kernels of LinkedAttention, selected for the CPU at run time.
//
// Wide: the lanes of a vector are (row, head) pairs that read the same keys. A panel is `vectors` (1 to 4) vectors of
// them, so scores are [token][panel] and sums [dim][panel]; keys and values are read one number at a time and
// broadcast, in storage order. Narrow: for a single row; the lanes run along the head dimension. Rows of queries, keys,
// values and sums are padded with zeros to a multiple of kNarrowPad.
//
// A partial result of a panel is [largest: panel][sum: panel][weighted values: dim][panel], of a narrow row's head
// [largest, sum, ...: kNarrowHeader][weighted values: padded dim]; largest is in units of log2 (-inf: nothing seen, the
// rest is 0).
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_SIMD_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_SIMD_H_

#include <cstddef>
#include <cstdint>

namespace kvlink::kernels::cpu {

inline constexpr int64_t kNarrowPad = 16;
inline constexpr int64_t kNarrowHeader = 16;

// Hides scores. Token t of the block of scores is token first + t of the segment; lane i sees tokens lo[i] <= token <
// hi[i].
struct ScoreMask {
  const int32_t* lo = nullptr;  // nullptr: every lane sees all tokens
  const int32_t* hi = nullptr;
  const uint64_t* hidden = nullptr;  // by token of the segment; nullptr: none
  int64_t first = 0;
};

struct AttentionKernels {
  int64_t lanes = 0;
  int panel_vectors = 0;  // maximum number of vectors in a panel, at most 4

  // to[row][0..padded) = dim numbers as f32 and zeros. The first: bf16; the second: int8 times scales[row] (4 bytes
  // each, unaligned).
  void (*rows_from_bf16)(const std::byte* from, int64_t rows, int64_t dim, float* to, int64_t padded) = nullptr;
  void (*rows_from_q8)(const std::byte* from, const std::byte* scales, int64_t rows, int64_t dim, float* to,
                       int64_t padded) = nullptr;

  // Operands of tile multiplication (bf16/tiles.h). to[tile of 16 columns][padded_rows / 2][16 columns][2] =
  // from[rows][columns] as bf16, zeros beyond; columns is a multiple of lanes, padded_rows is even.
  void (*tiles_of_pairs)(const float* from, int64_t rows, int64_t columns, int64_t padded_rows, uint32_t* to) = nullptr;
  // to[padded_columns][32] = from[rows][columns] transposed, zeros beyond; bf16, at most 32 rows.
  void (*tiles_of_columns)(const std::byte* from, int64_t rows, int64_t columns, int64_t padded_columns,
                           uint16_t* to) = nullptr;

  // out[dim][panel] = the panel rotated back by the angles of cosine, sine [half].
  void (*turn_back)(const float* q, const float* cosine, const float* sine, int64_t half, int64_t dim, int vectors,
                    float* out) = nullptr;
  // scores[tokens][panel] = keys[tokens][dim] * q[dim][panel].
  void (*scores)(const float* q, const float* keys, int64_t key_stride, int64_t tokens, int64_t dim, int vectors,
                 float* scores) = nullptr;
  // Turns scores (in log2 units; or natural ones to be capped at `softcap` > 0) into exponentials, in place, and writes
  // largest and sum.
  void (*softmax)(float* scores, int64_t tokens, const ScoreMask& mask, float softcap, int vectors, float* largest,
                  float* sum) = nullptr;
  // sums[dim][panel] (+)= values[tokens][dim]^T * weights[tokens][panel].
  void (*values)(const float* weights, const float* values, int64_t value_stride, int64_t tokens, int64_t dim,
                 int vectors, bool accumulate, float* sums) = nullptr;
  // state = state merged with partial.
  void (*merge)(float* state, const float* partial, int64_t dim, int vectors) = nullptr;
  // Divides the values by the sums, times 1 / (1 + 2^(sink - lse)) if sinks [panel] (log2 units) are given; replaces
  // `largest` by the natural log of the sum of exponentials.
  void (*finish)(float* state, const float* sinks, int64_t dim, int vectors) = nullptr;

  // scores[head][t] = q[head] . keys[t]; heads q_stride apart, rows of scores score_stride apart.
  void (*narrow_scores)(const float* q, int64_t q_stride, int64_t heads, const float* keys, int64_t key_stride,
                        int64_t tokens, int64_t padded, float* scores, int64_t score_stride) = nullptr;
  // As softmax for one head; `hidden` as in ScoreMask. scores has room for tokens rounded up to kNarrowPad.
  void (*narrow_softmax)(float* scores, int64_t tokens, const uint64_t* hidden, int64_t first, float softcap,
                         float* largest, float* sum) = nullptr;
  void (*narrow_values)(const float* weights, int64_t weight_stride, int64_t heads, const float* values,
                        int64_t value_stride, int64_t tokens, int64_t padded, bool accumulate, float* sums,
                        int64_t sum_stride) = nullptr;
  void (*narrow_merge)(float* state, const float* partial, int64_t padded) = nullptr;
};

const AttentionKernels& GetAttentionKernels();

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_SIMD_H_
