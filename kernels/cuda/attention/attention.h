// LinkedAttention on the device: the layout of a batch's plan, and the launches.
//
// A *unit* is keys that rows read together, in one of two forms:
//   deferred  a split of 256 tokens of one segment, for every row of every request that reads it
//   streamed  all reads of a long run of rows that have the same reads, one after another
// An *entry* of a unit is a row that reads it; its heads of one kv head are up to 64 rows of a tile, and an *item* is
// as many entries of a unit as fill a tile. A thread block computes one item for one kv head (and, where a kv head
// serves more than 64 heads, 64 of them): softmax and weighted values of its rows over the unit's keys, written to a
// *slot* of the workspace as (largest score, sum, values). A row's slots are consecutive, in the order of its reads and
// splits, and are merged in that order: nothing depends on the rest of the batch.
//
// Two requests, A with rows 0 and 1, B with row 2; all read document D (300 tokens, so two splits), A also document E:
//
//            D: tokens 0-255      D: tokens 256-299    E
//            unit 0               unit 1               unit 2
//   row 0    entry -> slot 0      entry -> slot 1      entry -> slot 2     slots 0, 1, 2 merge into row 0
//   row 1    entry -> slot 3      entry -> slot 4      entry -> slot 5     slots 3, 4, 5 merge into row 1
//   row 2    entry -> slot 6      entry -> slot 7                          slots 6, 7 merge into row 2
//            \_______________/
//             item: as many entries of the unit as fill a tile of 64 (row, head) pairs; one thread block for each
//             kv head computes it
//
// A *read* is a row of the batch's table of reads: a segment at an offset, for some rows; D is read by A at one offset
// and by B at another, and an entry names the one that turns its query. A *step* is the part of a unit that lies in one
// segment: one for a deferred unit, one for each read of a streamed unit.
#ifndef KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_H_
#define KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_H_

#include <cstdint>

#include "kernels/cuda/operations.h"

namespace kvlink::kernels::cuda {

inline constexpr int64_t kSplitTokens = 256;
inline constexpr int kTileRows = 64;
// Entries of an item are a power of two, 1 to 64; the plan lists items for each.
inline constexpr int kItemSizes = 7;

struct AttentionSegment {
  int64_t head_stride = 0, block_stride = 0, tokens = 0;
  int64_t table = -1;      // of its blocks, in `tables`; -1: block b is at index b
  int64_t positions = -1;  // of its tokens, in `positions`; -1: token j of a read is at position offset + j
  int32_t codec = 0;
  int32_t padded = 0;
};
struct AttentionRead {
  int64_t offset = 0;
  int64_t hidden = -1;  // first word in `hidden`; -1: nothing is hidden
};
// Blocks [block_begin, block_end) of a segment.
struct AttentionStep {
  int32_t segment = 0, block_begin = 0, block_end = 0;
  int32_t read = -1;       // of all entries; -1 in deferred units, whose entries have it
  int64_t ends_begin = 0;  // streamed: ends[ends_begin + entry]
};
struct AttentionUnit {
  int64_t steps_begin = 0, entries_begin = 0;  // entries_begin: of a deferred unit
  int32_t steps = 0, entries = 0;
  int32_t row_begin = 0;   // streamed: entry e is row row_begin + e,
  int32_t slot_begin = 0;  // and slot slot_begin + e
  int32_t streamed = 0;
  int32_t reserved = 0;
};
struct AttentionEntry {
  int32_t row = 0, read = 0;
  int32_t end = 0;  // tokens of the segment at or before the row's position
  int32_t slot = 0;
};
struct AttentionItem {
  int32_t unit = 0, first_entry = 0;
};

// A plan in device memory.
struct AttentionPlanView {
  const AttentionSegment* segments = nullptr;
  const AttentionRead* reads = nullptr;
  const AttentionStep* steps = nullptr;
  const AttentionUnit* units = nullptr;
  const AttentionEntry* entries = nullptr;
  const int32_t* ends = nullptr;
  const int64_t* row_positions = nullptr;
  const int32_t* row_slots = nullptr;  // [rows + 1]: slots of row r are [row_slots[r], row_slots[r + 1])
  const int32_t* tables = nullptr;
  const int64_t* positions = nullptr;
  const uint64_t* hidden = nullptr;
};

struct AttentionLaunch {
  AttentionPlanView plan;
  const AttentionItem* items = nullptr;
  int64_t item_count = 0;
  int32_t item_entries = 1;
  const void* const* layer_data = nullptr;  // [segments]
  View q;                                   // [rows, heads, dim]
  View out;                                 // [rows, heads * dim]
  float* lse = nullptr;                     // or nullptr
  int64_t lse_strides[2] = {};
  const float* sinks = nullptr;  // or nullptr
  int64_t rows = 0, heads = 0, kv_heads = 0, dim = 0, window = 0;
  float scale = 0, softcap = 0;
  // cos[half], sin[half] of each row's position, times the attention factor, and of each read's offset.
  const float* row_angles = nullptr;
  const float* read_angles = nullptr;
  int64_t half = 0;
  // The workspace, by (slot, head): largest score in units of log2 and sum of powers of two; values not yet divided.
  float* states = nullptr;  // [slots][heads][2]
  float* values = nullptr;  // [slots][heads][dim]
};

// attention_tensor.cu: raw-bf16 and q8 segments on tensor cores, for the head dimensions that have a kernel.
bool TensorAttentionHas(int64_t dim);
int LaunchTensorAttention(void* stream, const AttentionLaunch& launch);
// attention_scalar.cu: any codec and head dimension, in f32.
int LaunchScalarAttention(void* stream, const AttentionLaunch& launch);
// attention_merge.cu: merges the slots of each row into `out` and `lse`.
int LaunchMergeAttention(void* stream, const AttentionLaunch& launch);

// key_mass.cu: adds to each token of each read what the read's rows give it.
struct KeyMassRead {
  int64_t mass_begin = 0;  // of its tokens
  int32_t segment = 0, read = 0;
  int32_t row_begin = 0, row_end = 0;  // those that count
};
struct KeyMassLaunch {
  AttentionLaunch attention;  // its lse is read; out, items and workspace are not used
  const KeyMassRead* reads = nullptr;
  int64_t read_count = 0, max_blocks = 0;  // max_blocks: of the longest segment
  float* mass = nullptr;
};
int LaunchKeyMass(void* stream, const KeyMassLaunch& launch);

// Fills tables of angles: cos and sin of positions[i] * inv_freq times `factor`, [count][2][half].
struct AnglesLaunch {
  RopeView rope;  // its attention_factor is not applied
  const int64_t* positions = nullptr;
  int64_t stride = 1;  // of positions
  int64_t count = 0;
  double factor = 1;
  float* out = nullptr;
};
int LaunchAngles(void* stream, const AnglesLaunch& launch);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_H_
