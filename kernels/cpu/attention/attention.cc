// Runs a plan: streamed groups merge as they go, deferred ones write slots that are merged at the end. Threads take
// work items as they become free; the result does not depend on which thread took which. The mass of keys is taken from
// the same tiles, without the values.
#include "kernels/cpu/attention/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention/attention_tile.h"

namespace kvlink::kernels::cpu {
namespace {

constexpr int64_t kMaxTilePanels = 4;

// Rows per tile of the streamed groups: large, because each tile reads (and converts) the keys again; small enough to
// give all threads work. Does not affect the results.
int64_t TileRows(const CpuPlan& plan, const AttentionSizes& sizes, const Threads& threads) {
  constexpr double kReadCost = 3;  // cost of reading the keys, in vectors of a panel
  int64_t best_rows = 1;
  double best_cost = 0;
  for (int64_t panels = kMaxTilePanels; panels >= 1; --panels) {
    const int64_t rows = std::max<int64_t>(1, panels * sizes.panel / sizes.group);
    int64_t items = 0, largest = 0;
    for (int32_t g : plan.streamed()) {
      const int64_t count = plan.groups()[g].row_count, tiles = DivideUp(count, rows);
      items += tiles * sizes.kv_heads;
      largest = std::max(largest, DivideUp(count, tiles));
    }
    const double cost = static_cast<double>(DivideUp(items, threads.count())) *
                        (static_cast<double>(DivideUp(largest * sizes.group, sizes.lanes)) + kReadCost);
    if (panels == kMaxTilePanels || cost < best_cost) {
      best_cost = cost;
      best_rows = largest;
    }
  }
  return std::max<int64_t>(best_rows, 1);
}

// State shared by the calls of one operation, laid out in the workspace.
class Runner {
 public:
  Runner(const CpuPlan& plan, const LinkedAttentionArgs& args, const Threads& threads, MultiplyTiles tiles)
      : plan_(plan),
        args_(args),
        threads_(threads),
        multiply_tiles_(tiles),
        sizes_(args.params, GetAttentionKernels().lanes, GetAttentionKernels().panel_vectors),
        tile_rows_(TileRows(plan, sizes_, threads)),
        mass_rows_(std::max<int64_t>(1, sizes_.panel / sizes_.group)),
        max_rows_(std::max({tile_rows_, plan.max_deferred_rows(), mass_rows_})),
        arena_(args.workspace.data) {
    tiles_ = arena_.Take<int64_t>(static_cast<int64_t>(plan.streamed().size()) + 1);
    narrow_ = arena_.Take<float>(plan.narrow_slots() * narrow_slot());
    wide_ = arena_.Take<float>(plan.wide_slots() * wide_slot());
    Arena one(nullptr);
    Scratch counted(*this, one);
    thread_bytes_ = one.used();
    scratch_ = arena_.Take<std::byte>(thread_bytes_ * threads.count());
  }
  int64_t used() const { return arena_.used(); }

  void Run() {
    Stream();
    Defer();
  }

  // A work item is a split of a read, with all that its tokens receive, added up in one order: by heads, by groups, by
  // tiles of mass_rows_ rows, which depends on nothing but the machine.
  void AddMass(const KeyMassArgs& mass) {
    const absl::Span<const KvRead> reads = plan_.batch().reads;
    const auto tokens = [&](size_t read) { return plan_.batch().segments[reads[read].segment].tokens; };
    int64_t items = 0;
    for (size_t read = 0; read < reads.size(); ++read) items += DivideUp(tokens(read), kSplitTokens);
    threads_.For(items, [&](int64_t split, int thread) {
      size_t read = 0;
      float* to = mass.mass.as<float>();
      for (; split >= DivideUp(tokens(read), kSplitTokens); ++read) {
        split -= DivideUp(tokens(read), kSplitTokens);
        to += tokens(read);
      }
      const int64_t first = split * kSplitTokens;
      float received[kSplitTokens] = {};
      for (int64_t kv_head = 0; kv_head < sizes_.kv_heads; ++kv_head) {
        for (const CpuPlan::Group& group : plan_.groups()) {
          // First of all, because with links there are as many groups as documents, of which each reads all before it.
          if (!Counts(mass, group)) continue;
          for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
            if (plan_.group_reads()[i].read != static_cast<int32_t>(read)) continue;
            AddGroupMass(mass, group, plan_.group_reads()[i], split, kv_head, thread, received);
          }
        }
      }
      for (int64_t t = first; t < std::min(first + kSplitTokens, tokens(read)); ++t) to[t] += received[t - first];
    });
  }

 private:
  struct Scratch {
    Scratch(const Runner& runner, Arena& arena)
        : wide(runner.plan_, runner.args_, runner.sizes_, runner.max_rows_, runner.multiply_tiles_, arena),
          narrow(runner.plan_, runner.args_, runner.sizes_, arena) {
      const AttentionSizes& sizes = runner.sizes_;
      states = arena.Take<float>(
          std::max(sizes.panels(runner.max_rows_) * sizes.wide_state(), sizes.group * sizes.narrow_state()));
      partial = arena.Take<float>(sizes.wide_state());
    }
    WideTile wide;
    NarrowTile narrow;
    float* states;
    float* partial;
  };
  Arena ThreadArena(int thread) const { return Arena(scratch_ + thread * thread_bytes_); }

  int64_t narrow_slot() const { return sizes_.kv_heads * sizes_.group * sizes_.narrow_state(); }
  int64_t wide_slot() const { return sizes_.kv_heads * sizes_.panels(plan_.max_deferred_rows()) * sizes_.wide_state(); }
  float* NarrowSlot(const CpuPlan::Group& group, int64_t slot, int64_t kv_head) const {
    return narrow_ + (group.slots_before + slot) * narrow_slot() + kv_head * sizes_.group * sizes_.narrow_state();
  }
  float* WideSlot(const CpuPlan::Group& group, int64_t slot, int64_t kv_head, int64_t panel) const {
    const int64_t panels = sizes_.panels(plan_.max_deferred_rows());
    return wide_ + (group.slots_before + slot) * wide_slot() + (kv_head * panels + panel) * sizes_.wide_state();
  }

  void Stream() {
    if (plan_.streamed().empty()) return;
    tiles_[0] = 0;
    for (size_t i = 0; i < plan_.streamed().size(); ++i) {
      tiles_[i + 1] = tiles_[i] + DivideUp(plan_.groups()[plan_.streamed()[i]].row_count, tile_rows_);
    }
    const int64_t tiles = tiles_[plan_.streamed().size()];
    threads_.For(tiles * sizes_.kv_heads, [&](int64_t item, int thread) {
      // Later rows see more tokens: take them first.
      const int64_t tile = tiles - 1 - item / sizes_.kv_heads;
      const int64_t which = std::upper_bound(tiles_, tiles_ + plan_.streamed().size() + 1, tile) - tiles_ - 1;
      const CpuPlan::Group& group = plan_.groups()[plan_.streamed()[which]];
      const int64_t parts = tiles_[which + 1] - tiles_[which], part = tile - tiles_[which];
      const int64_t begin = group.row_count * part / parts, end = group.row_count * (part + 1) / parts;
      StreamTile(group, group.row_begin + begin, end - begin, item % sizes_.kv_heads, thread);
    });
  }

  void StreamTile(const CpuPlan::Group& group, int64_t row_begin, int64_t rows, int64_t kv_head, int thread) {
    Arena arena = ThreadArena(thread);
    Scratch scratch(*this, arena);
    WideTile& tile = scratch.wide;
    tile.Begin(group, row_begin, rows, kv_head);
    const auto state = [&](int64_t p) { return scratch.states + p * sizes_.wide_state(); };
    for (int64_t p = 0; p < tile.panels(); ++p) tile.Clear(state(p), p);
    for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
      const CpuPlan::GroupRead& read = plan_.group_reads()[i];
      if (read.splits == 0) continue;
      tile.BeginRead(read);
      for (int64_t split = 0; split < read.splits; ++split) {
        tile.Split(
            read, split, [&](int64_t) { return scratch.partial; },
            [&](int64_t p) { tile.kernels().merge(state(p), scratch.partial, sizes_.dim, tile.vectors(p)); });
      }
    }
    for (int64_t p = 0; p < tile.panels(); ++p) tile.Finish(p, state(p));
  }

  // Whether some row of the group counts.
  static bool Counts(const KeyMassArgs& mass, const CpuPlan::Group& group) {
    return group.row_begin < mass.row_begin + mass.row_count && mass.row_begin < group.row_begin + group.row_count;
  }

  // received[kSplitTokens] += what those of the group's rows that count give the split's tokens.
  void AddGroupMass(const KeyMassArgs& mass, const CpuPlan::Group& group, const CpuPlan::GroupRead& read, int64_t split,
                    int64_t kv_head, int thread, float* received) {
    const int64_t begin = std::max(group.row_begin, mass.row_begin);
    const int64_t end = std::min(group.row_begin + group.row_count, mass.row_begin + mass.row_count);
    Arena arena = ThreadArena(thread);
    // Tiles where LinkedAttention used them.
    WideTile tile(plan_, args_, sizes_, mass_rows_, group.narrow() ? nullptr : multiply_tiles_, arena);
    float* factors = arena.Take<float>(2 * sizes_.panel);
    alignas(64) float sums[kSplitTokens];
    for (int64_t row = begin; row < end; row += mass_rows_) {
      tile.Begin(group, row, std::min(mass_rows_, end - row), kv_head);
      tile.BeginRead(read);
      tile.Weigh(read, split, factors, [&](int64_t p, int64_t first, int64_t last, const float* weights) {
        const int64_t lanes = tile.width(p);
        tile.kernels().narrow_scores(factors, lanes, 1, weights, lanes, last - first, lanes, sums, kSplitTokens);
        for (int64_t t = first; t < last; ++t) received[t - split * kSplitTokens] += sums[t - first];
      });
    }
  }

  void Defer() {
    const int64_t heads = sizes_.kv_heads;
    threads_.For(static_cast<int64_t>(plan_.units().size()) * heads, [&](int64_t item, int thread) {
      Arena arena = ThreadArena(thread);
      Scratch scratch(*this, arena);
      const CpuPlan::Unit& unit = plan_.units()[item / heads];
      for (int64_t i = unit.entries_begin; i < unit.entries_end; ++i) {
        ComputeEntry(plan_.entries()[i], unit.split, item % heads, scratch);
      }
    });
    threads_.For(static_cast<int64_t>(plan_.deferred().size()) * heads, [&](int64_t item, int thread) {
      Arena arena = ThreadArena(thread);
      Scratch scratch(*this, arena);
      const CpuPlan::Group& group = plan_.groups()[plan_.deferred()[item / heads]];
      group.narrow() ? MergeNarrow(group, item % heads, scratch) : MergeWide(group, item % heads, scratch);
    });
  }

  void ComputeEntry(const CpuPlan::Entry& entry, int64_t split, int64_t kv_head, Scratch& scratch) {
    const CpuPlan::Group& group = plan_.groups()[entry.group];
    const CpuPlan::GroupRead& read = plan_.group_reads()[entry.group_read];
    const int64_t slot = read.first_slot + split;
    if (group.narrow()) {
      scratch.narrow.Begin(group, kv_head);
      scratch.narrow.BeginRead(read);
      scratch.narrow.Split(read, split, NarrowSlot(group, slot, kv_head));
      return;
    }
    WideTile& tile = scratch.wide;
    tile.Begin(group, group.row_begin, group.row_count, kv_head);
    tile.BeginRead(read);
    const auto partial = [&](int64_t p) { return WideSlot(group, slot, kv_head, p); };
    for (int64_t p = 0; p < tile.panels(); ++p) tile.Clear(partial(p), p);
    tile.Split(read, split, partial, [](int64_t) {});
  }

  void MergeNarrow(const CpuPlan::Group& group, int64_t kv_head, Scratch& scratch) {
    NarrowTile& tile = scratch.narrow;
    tile.Begin(group, kv_head);
    tile.Clear(scratch.states);
    for (int64_t slot = 0; slot < group.slots; ++slot) tile.Merge(scratch.states, NarrowSlot(group, slot, kv_head));
    tile.Finish(scratch.states);
  }

  void MergeWide(const CpuPlan::Group& group, int64_t kv_head, Scratch& scratch) {
    WideTile& tile = scratch.wide;
    tile.Begin(group, group.row_begin, group.row_count, kv_head);
    for (int64_t p = 0; p < tile.panels(); ++p) {
      float* state = scratch.states + p * sizes_.wide_state();
      tile.Clear(state, p);
      for (int64_t slot = 0; slot < group.slots; ++slot) {
        tile.kernels().merge(state, WideSlot(group, slot, kv_head, p), sizes_.dim, tile.vectors(p));
      }
      tile.Finish(p, state);
    }
  }

  const CpuPlan& plan_;
  const LinkedAttentionArgs& args_;
  const Threads& threads_;
  const MultiplyTiles multiply_tiles_;
  const AttentionSizes sizes_;
  const int64_t tile_rows_, mass_rows_, max_rows_;
  Arena arena_;
  int64_t* tiles_;  // per streamed group, cumulative
  float* narrow_;
  float* wide_;
  std::byte* scratch_;
  int64_t thread_bytes_;
};

}  // namespace

int64_t AttentionWorkspaceBytes(const CpuPlan& plan, const AttentionParams& params, const Threads& threads,
                                MultiplyTiles tiles) {
  LinkedAttentionArgs args;
  args.params = params;
  return Runner(plan, args, threads, tiles).used();
}

void LinkedAttention(const CpuPlan& plan, const LinkedAttentionArgs& args, const Threads& threads,
                     MultiplyTiles tiles) {
  if (plan.rows() > 0) Runner(plan, args, threads, tiles).Run();
}

void KeyMass(const CpuPlan& plan, const KeyMassArgs& args, const Threads& threads, MultiplyTiles tiles) {
  if (plan.rows() == 0) return;
  LinkedAttentionArgs attention;
  attention.params = args.params;
  attention.layer = args.layer;
  attention.q = args.q, attention.lse = args.lse;
  attention.workspace = args.workspace;
  Runner(plan, attention, threads, tiles).AddMass(args);
}

}  // namespace kvlink::kernels::cpu
