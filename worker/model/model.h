// A decoder-only transformer on a Backend: weights packed once, and forward passes over ragged batches of fresh tokens
// that read encodings and private KV through linked attention. This code does not depend on the backend.
//
// Thread-safety: a Model is immutable after Load; each concurrent Forward call needs its own ForwardContext. Ownership:
// the Model owns its packed weights; the caller owns the Backend (which must outlive the Model), contexts and KV pages.
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

// Pages of private KV, each with 64 tokens of every layer. The capacity is fixed at construction.
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

  // Thread-safe. RESOURCE_EXHAUSTED, taking no page, if fewer than `count` are free.
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

// The private KV of one request, or of one document being encoded: tokens appended in ascending global position.
class KvSequence {
 public:
  explicit KvSequence(KvPages* pages) : pages_(pages) {}
  ~KvSequence();
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  // Allocates slots for `positions` (ascending, beyond the last) and returns them; the next forward pass writes to
  // them. RESOURCE_EXHAUSTED, changing nothing, when pages run out; INVALID_ARGUMENT for positions out of order.
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
  absl::Span<const int64_t> logits_rows;  // rows whose logits are requested, ascending
  // Only this many layers are computed, of the last one only keys and values, and no logits; 0: all layers.
  int64_t layers = 0;
  // Rows [begin, begin + count) are observed: `mass` becomes the attention that they give to each token of the reads,
  // one read after another, summed over these rows, heads and layers. nullptr: nothing is observed.
  struct KeyMass {
    int64_t row_begin = 0;
    int64_t row_count = 0;
    std::vector<float>* mass = nullptr;
  } key_mass;
  // Called before a layer reads its segments, in layer order: waits for slabs that are still arriving. An error ends
  // the pass and is returned unchanged. May be empty.
  std::function<absl::Status(int64_t layer)> before_layer;
  // A pass of at most this many rows, through all layers and unobserved, may be recorded and launched as one graph,
  // which saves launch overhead on a device; before_layer is then not called. Results are identical to the bit.
  int64_t graph_rows = 0;
};

// The arrays of a ForwardBatch while it is assembled: the rows of one request after another, then their reads, in the
// order of segments. Each segment is listed once.
struct BatchArrays {
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions, slots, logits_rows;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;

  // Appends fresh rows of one request, at ascending positions. Returns the index of the first.
  int64_t AddRows(absl::Span<const int32_t> tokens, absl::Span<const int64_t> positions,
                  absl::Span<const int64_t> slots);
  // Lets the rows from `first_row` on, which are at `positions`, read a segment placed at `offset`; rows before the
  // segment do not read it. `hidden`: as KvRead.
  void AddRead(int32_t segment, absl::Span<const int64_t> positions, int64_t first_row, int64_t offset,
               const uint64_t* hidden = nullptr);
  // Lets `rows` rows from `first_row` on read their own request's keys and values.
  void AddPrivate(const KvSequence& sequence, int64_t first_row, int64_t rows);
  // The batch refers to this object, which must then not change.
  ForwardBatch Batch(KvPages* pages) const;
};

// Streams, workspaces and plans of one caller, grown on demand and reused.
class ForwardContext {
 public:
  struct Graphs {
    int64_t launched = 0;  // passes that ran as one graph
    int64_t failed = 0;    // passes whose recording failed and that ran directly instead
  };
  virtual ~ForwardContext() = default;
  const Graphs& graphs() const { return graphs_; }

 protected:
  Graphs graphs_;
};

class Model {
 public:
  struct Options {
    // Called with the fraction of weights loaded, 0..1. May be empty.
    std::function<void(double)> progress;
  };
  // INVALID_ARGUMENT for missing tensors or wrong shapes, naming them.
  static absl::StatusOr<std::unique_ptr<Model>> Load(kernels::Backend* backend, const Weights& weights,
                                                     const Options& options);
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual kernels::Backend* backend() const = 0;
  virtual const kernels::Rope& rope() const = 0;
  virtual std::unique_ptr<ForwardContext> NewContext() const = 0;
  // OK while passes may still run as graphs. Otherwise the last of several consecutive recording failures, after which
  // no pass is recorded. Thread-safe.
  virtual absl::Status recording() const = 0;
  // Embedding row of a token as f32 [hidden].
  virtual absl::Status EmbeddingRow(int32_t token, absl::Span<float> out) const = 0;

  // Runs the layers over the batch. Before each layer's attention, writes its fresh keys and values to `pages`. Returns
  // logits [logits_rows, vocab] f32 in the backend's memory, valid until the context's next use. With empty logits_rows
  // (encode), the last layer's output is not computed and the tensor has zero rows. INVALID_ARGUMENT for ids, rows,
  // slots or layers out of range, and for logits of some layers; the status of before_layer; errors of the backend.
  virtual absl::StatusOr<kernels::Tensor> Forward(ForwardContext& context, const ForwardBatch& batch) const = 0;
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_MODEL_MODEL_H_
