// Shared by the attention kernels: the identity of a tile's row, the tokens it sees, the location of a block of keys.
#ifndef KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_ROWS_H_
#define KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_ROWS_H_

#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/elements.h"

namespace kvlink::kernels::cuda {

inline constexpr int kTokensOfBlock = 64;
inline constexpr float kNothingSeen = -INFINITY;
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

// The item of a thread block: grid x counts items, grid y kv heads and, within them, tiles of heads.
struct Tile {
  AttentionUnit unit;
  int64_t kv_head;
  int32_t first_entry, entries;
  int32_t group;       // heads of a kv head
  int32_t first_head;  // of the group
  int32_t heads;       // of the group in this tile
  KVLINK_DEVICE int32_t rows() const { return entries * heads; }

  KVLINK_DEVICE explicit Tile(const AttentionLaunch& l) {
    const AttentionItem item = l.items[BlockX()];
    unit = l.plan.units[item.unit];
    group = static_cast<int32_t>(l.heads / l.kv_heads);
    const int32_t parts = (group + kTileRows - 1) / kTileRows;
    kv_head = BlockY() / parts;
    first_head = static_cast<int32_t>(BlockY() % parts) * kTileRows;
    heads = group - first_head < kTileRows ? group - first_head : kTileRows;
    first_entry = item.first_entry;
    entries = unit.entries - first_entry < l.item_entries ? unit.entries - first_entry : l.item_entries;
  }
};

// Row `index` of the tile.
struct TileRow {
  int32_t entry;  // of the unit
  int32_t row, slot;
  int64_t head;

  KVLINK_DEVICE TileRow(const AttentionLaunch& l, const Tile& tile, int32_t index) {
    entry = tile.first_entry + index / tile.heads;
    head = tile.kv_head * tile.group + tile.first_head + index % tile.heads;
    if (tile.unit.streamed != 0) {
      row = tile.unit.row_begin + entry;
      slot = tile.unit.slot_begin + entry;
    } else {
      const AttentionEntry& e = l.plan.entries[tile.unit.entries_begin + entry];
      row = e.row;
      slot = e.slot;
    }
  }
};

// The tokens of a step's segment that a row sees: [begin, end) except hidden ones.
struct RowView {
  int32_t read;
  int32_t begin, end;
  int64_t hidden;  // as in AttentionRead

  KVLINK_DEVICE RowView(const AttentionLaunch& l, const Tile& tile, const AttentionStep& step, const TileRow& row) {
    if (tile.unit.streamed != 0) {
      read = step.read;
      end = l.plan.ends[step.ends_begin + row.entry];
    } else {
      const AttentionEntry& e = l.plan.entries[tile.unit.entries_begin + row.entry];
      read = e.read;
      end = e.end;
    }
    const AttentionRead& reads = l.plan.reads[read];
    hidden = reads.hidden;
    begin = 0;
    if (l.window == 0) return;
    const AttentionSegment& segment = l.plan.segments[step.segment];
    const int64_t before = l.plan.row_positions[row.row] - l.window;  // the last position outside the window
    if (segment.positions < 0) {
      const int64_t first = before + 1 - reads.offset;
      begin = static_cast<int32_t>(first < 0 ? 0 : first < end ? first : end);
      return;
    }
    int32_t low = 0, high = end;  // find the first token after `before`
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (l.plan.positions[segment.positions + middle] <= before) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    begin = low;
  }
};

// Keys and values of one block of one head.
struct KeyBlock {
  const unsigned char* keys;
  const unsigned char* values;
  const unsigned char* scales;  // q8: of the keys, then of the values
  int32_t held;                 // tokens in the layout of the block
  int32_t tokens;               // of these, tokens of the segment

  KVLINK_DEVICE KeyBlock(const AttentionLaunch& l, const AttentionStep& step, int64_t kv_head, int32_t block,
                         int64_t row_bytes) {
    const AttentionSegment& segment = l.plan.segments[step.segment];
    const int64_t left = segment.tokens - static_cast<int64_t>(block) * kTokensOfBlock;
    tokens = static_cast<int32_t>(left < kTokensOfBlock ? left : kTokensOfBlock);
    held = segment.padded != 0 ? kTokensOfBlock : tokens;
    const int64_t at = segment.table >= 0 ? l.plan.tables[segment.table + block] : block;
    keys = static_cast<const unsigned char*>(l.layer_data[step.segment]) + kv_head * segment.head_stride +
           at * segment.block_stride;
    values = keys + held * row_bytes;
    scales = values + held * row_bytes;
  }
};

// cos and sin of the angle i that turns a row's query to the offset of its read.
KVLINK_DEVICE void QueryAngle(const AttentionLaunch& l, int32_t row, int32_t read, int64_t i, float* cosine,
                              float* sine) {
  const float* p = l.row_angles + row * 2 * l.half + i;
  const float* o = l.read_angles + read * 2 * l.half + i;
  const float pc = p[0], ps = p[l.half], oc = o[0], os = o[l.half];
  *cosine = pc * oc + ps * os;
  *sine = ps * oc - pc * os;
}

// Converts a score to the exponent of a power of two.
KVLINK_DEVICE float FinishScore(const AttentionLaunch& l, float dot) {
  const float score = dot * l.scale;
  return (l.softcap > 0 ? l.softcap * tanhf(score / l.softcap) : score) * kLog2E;
}

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_ROWS_H_
