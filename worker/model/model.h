// A decoder-only transformer on a Backend: weights packed once, forward passes over ragged batches of fresh tokens that
// read encodings and private KV through linked attention. The code here does not know which backend it runs on.
//
// Thread-safety: a Model is immutable after Load; each Forward call needs a ForwardContext of its own.
// Ownership: the Model owns its packed weights; the caller owns the Backend (which must outlive the Model), contexts
// and KV pages.
#ifndef KVLINK_WORKER_MODEL_MODEL_H_
#define KVLINK_WORKER_MODEL_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernels.h"
#include "worker/files/config.h"
#include "worker/files/weights.h"

namespace kvlink::model {

// Pages of private KV: a page holds 64 tokens of every layer. Fixed capacity, given at construction.
class KvPages {
 public:
  // RESOURCE_EXHAUSTED if there is no memory. dtype f32 or bf16.
  static absl::StatusOr<std::unique_ptr<KvPages>> Create(kernels::Backend* backend, const ModelConfig& config,
                                                         kernels::Dtype dtype, int64_t pages);
  static int64_t PageBytes(const ModelConfig& config, kernels::Dtype dtype);  // all layers

  kernels::Dtype dtype() const { return dtype_; }
  kernels::Tensor layer(int64_t layer) const;  // [pages, G, 128, D]
  absl::Span<const std::byte* const> layer_data() const { return layer_data_; }
  int64_t head_stride() const { return head_stride_; }    // bytes
  int64_t block_stride() const { return block_stride_; }  // bytes: a page of one layer
  Codec codec() const { return dtype_ == kernels::Dtype::kF32 ? Codec::kRawF32 : Codec::kRawBf16; }

  // Thread-safe. RESOURCE_EXHAUSTED, taking none, when fewer than `count` pages are free.
  absl::StatusOr<std::vector<int32_t>> Take(int64_t count);
  void Give(absl::Span<const int32_t> pages);
  int64_t free_pages() const;
  int64_t total_pages() const;

 private:
  struct Impl;
  KvPages();

 public:
  ~KvPages();

 private:
  kernels::Dtype dtype_ = kernels::Dtype::kF32;
  int64_t head_stride_ = 0;
  int64_t block_stride_ = 0;
  std::vector<const std::byte*> layer_data_;
  std::unique_ptr<Impl> impl_;
};

// The private KV of one request or of one document being encoded: tokens appended in ascending global position.
class KvSequence {
 public:
  explicit KvSequence(KvPages* pages) : pages_(pages) {}
  ~KvSequence();
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  // Makes room for `positions` (ascending, beyond the last) and returns the slots they will be written to by the next
  // forward pass. RESOURCE_EXHAUSTED, changing nothing, when pages run out; INVALID_ARGUMENT for positions out of
  // order.
  absl::StatusOr<std::vector<int64_t>> Append(absl::Span<const int64_t> positions);
  // Drops all tokens from index `tokens` on.
  void Truncate(int64_t tokens);
  int64_t tokens() const { return static_cast<int64_t>(positions_.size()); }
  absl::Span<const int64_t> positions() const { return positions_; }
  absl::Span<const int32_t> block_table() const { return block_table_; }
  // Valid until the next Append or Truncate.
  kernels::KvSegment segment() const;

 private:
  KvPages* pages_;
  std::vector<int32_t> block_table_;
  std::vector<int64_t> positions_;
};

struct ForwardBatch {
  absl::Span<const int32_t> tokens;     // [rows]; ids >= vocab take row (id - vocab) of `extra_embeddings`
  kernels::Tensor extra_embeddings;     // [n, hidden] f32 link embeddings, or data == nullptr
  absl::Span<const int64_t> positions;  // [rows]
  absl::Span<const int64_t> slots;      // [rows] in `pages`
  KvPages* pages = nullptr;
  absl::Span<const kernels::KvSegment> segments;  // private KV included
  absl::Span<const kernels::KvRead> reads;
  absl::Span<const int64_t> logits_rows;  // rows whose logits are wanted, ascending
  // Called before a layer reads its segments, in layer order: waits for slabs that are still arriving. A non-OK status
  // ends the pass and is returned as it is. May be empty.
  std::function<absl::Status(int64_t layer)> before_layer;
  // A pass of at most so many rows may be recorded and launched as one graph, which a device runs with less said
  // between its kernels; before_layer is not called then. Results are the same to the bit.
  int64_t graph_rows = 0;
};

// The arrays behind a ForwardBatch, as they are collected: the rows of one request after another, then what they read,
// in the order of segments, each of which is listed once.
struct BatchArrays {
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions, slots, logits_rows;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;

  // Fresh rows of one request, at ascending positions. Returns the first of them.
  int64_t AddRows(absl::Span<const int32_t> tokens, absl::Span<const int64_t> positions,
                  absl::Span<const int64_t> slots);
  // Rows from `first_row` on, which are at `positions`, read a segment that was placed at `offset`: those not before
  // it.
  void AddRead(int32_t segment, absl::Span<const int64_t> positions, int64_t first_row, int64_t offset);
  // `rows` rows from `first_row` on read their own keys and values, of which nobody else knows.
  void AddPrivate(const KvSequence& sequence, int64_t first_row, int64_t rows);
  // Refers to this object, which then stays as it is.
  ForwardBatch Batch(KvPages* pages) const;
};

// Streams, workspaces and plans of one caller, grown as needed and used again.
class ForwardContext {
 public:
  struct Graphs {
    int64_t launched = 0;  // passes that ran as one graph
    int64_t failed = 0;    // that were not recorded when it was tried, and ran as others do
  };
  virtual ~ForwardContext() = default;
  const Graphs& graphs() const { return graphs_; }

 protected:
  Graphs graphs_;
};

class Model {
 public:
  struct Options {
    // Dequantised weights and progress: called with the share done, 0..1. May be empty.
    std::function<void(double)> progress;
  };
  // INVALID_ARGUMENT for tensors missing or of the wrong shape, naming them.
  static absl::StatusOr<std::unique_ptr<Model>> Load(kernels::Backend* backend, const Weights& weights,
                                                     const Options& options);
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual kernels::Backend* backend() const = 0;
  virtual const kernels::Rope& rope() const = 0;
  virtual std::unique_ptr<ForwardContext> NewContext() const = 0;
  // OK: passes that may run as graphs do. Else what came of the last one of several in a row that could not be
  // recorded: since then none is tried. Thread-safe.
  virtual absl::Status recording() const = 0;
  // Embedding row of a token as f32 [hidden].
  virtual absl::Status EmbeddingRow(int32_t token, absl::Span<float> out) const = 0;

  // Runs the layers over the batch, writing fresh keys and values to `pages` before each layer's attention, and returns
  // logits [logits_rows, vocab] f32 in the backend's memory, valid until the context's next use. Empty logits_rows:
  // the last layer's output is not computed and the tensor has zero rows (encode). INVALID_ARGUMENT for ids, rows or
  // slots out of range; before_layer's status; what the backend returns.
  virtual absl::StatusOr<kernels::Tensor> Forward(ForwardContext& context, const ForwardBatch& batch) const = 0;
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_MODEL_MODEL_H_
