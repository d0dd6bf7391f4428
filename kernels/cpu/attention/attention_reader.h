// Shared by all forms of LinkedAttention: sizes, scratch memory, and reading of stored keys and values.
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_READER_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_READER_H_

#include <cstddef>
#include <cstdint>

#include "base/slab.h"
#include "kernels/cpu/attention/attention_simd.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

inline int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t RoundUp(int64_t a, int64_t b) { return DivideUp(a, b) * b; }

// Sizes derived from the parameters, in elements.
struct AttentionSizes {
  AttentionSizes(const AttentionParams& params, int64_t lanes, int64_t panel_vectors)
      : dim(params.head_dim),
        padded(RoundUp(dim, kNarrowPad)),
        group(params.heads / params.kv_heads),
        kv_heads(params.kv_heads),
        lanes(lanes),
        panel(panel_vectors * lanes) {}
  int64_t panels(int64_t rows) const { return DivideUp(rows * group, panel); }
  int64_t wide_state() const { return (dim + 2) * panel; }         // of one panel
  int64_t narrow_state() const { return kNarrowHeader + padded; }  // of one head
  const int64_t dim, padded, group, kv_heads, lanes, panel;
};

// Hands out pieces of a block of memory, each on a 64-byte boundary. Without memory it only counts.
class Arena {
 public:
  explicit Arena(void* data) : data_(static_cast<std::byte*>(data)) {}
  template <typename T>
  T* Take(int64_t count) {
    T* taken = data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + used_);
    used_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 64);
    return taken;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* const data_;
  int64_t used_ = 0;
};

// Keys or values of tokens of one block as f32 rows.
struct F32Rows {
  const float* data = nullptr;
  int64_t stride = 0;
};

// Reads one kv head of one layer of a segment.
class SegmentReader {
 public:
  SegmentReader(const KvSegment& segment, int64_t layer, int64_t kv_head, const AttentionSizes& sizes);
  // Rows [begin, end) of block `block`, keys or values: in place if they are f32 (and, with `whole_vectors`, their
  // length is a multiple of kNarrowPad), otherwise converted into scratch [end - begin][padded].
  F32Rows Rows(int64_t block, int64_t begin, int64_t end, bool values, bool whole_vectors, float* scratch) const;
  // A block's keys or values as stored; Held is how many tokens its layout has.
  const std::byte* Stored(int64_t block, bool values) const;
  int64_t Held(int64_t block) const { return segment_.padded_blocks ? kBlockTokens : shape_.block_tokens(block); }

 private:
  const KvSegment& segment_;
  const std::byte* const head_;
  const SlabShape shape_;
  const int64_t padded_;
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_READER_H_
