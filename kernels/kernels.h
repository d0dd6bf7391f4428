// The operations of a language model with linked attention, as one interface implemented by the CPU backends and the
// CUDA backend here. Model code calls these and does not know which backend it runs on.
//
// Thread-safety: a Backend may be used by many threads at once; a Stream, an AttentionPlan and a Workspace by one at a
// time. Ownership: the caller owns every Tensor's memory and every workspace; no operation allocates. All memory must
// stay valid until Stream::Synchronize() returns after the operation. Errors: an operation checks its arguments when it
// is launched (kernels/validate.h, the same checks for every backend) and returns INVALID_ARGUMENT naming the operation
// and the argument, having written nothing. Errors that only the device can see (an id or a slot out of range, a key
// that is not finite) never cause an access out of bounds; they give INTERNAL at Synchronize(), as RESOURCE_EXHAUSTED
// does; outputs are then undefined. An operation on zero rows does nothing.
//
// Shapes: rows = fresh tokens of the batch (ragged over requests), H query heads, G key/value heads (H % G == 0), D =
// head dimension. "f32|bf16" lists the dtypes an argument may have. Rows of a tensor may be strided; the last stride is
// 1; elements of an output must not overlap. Tensors, segments' layer data, workspaces and sinks are memory of the
// backend's device; everything else (a batch's arrays, block tables, spans, ropes) is host memory.
#ifndef KVLINK_KERNELS_KERNELS_H_
#define KVLINK_KERNELS_KERNELS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/slab.h"
#include "kernels/logit_adjustment.h"
#include "kernels/rope.h"

namespace kvlink::kernels {

enum class Dtype : uint8_t { kF32, kBf16, kI32, kI64, kU64, kU8 };
int64_t DtypeBytes(Dtype dtype);
absl::string_view DtypeName(Dtype dtype);  // "f32", "bf16", ...

enum class DeviceType : uint8_t { kCpu, kCuda };
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// A view of memory it does not own. Strides are in elements.
struct Tensor {
  void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  Device device;
  int rank = 0;
  std::array<int64_t, 4> sizes{};
  std::array<int64_t, 4> strides{};
  int64_t bytes = 0;  // readable or writable from data

  // A dense row-major view over `data`.
  static Tensor Dense(void* data, Dtype dtype, Device device, absl::Span<const int64_t> sizes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t elements() const;
  // Rows [begin, begin + count) of the first dimension.
  Tensor Slice(int64_t begin, int64_t count) const;
};

// Memory of a backend, 4096-byte aligned, prefaulted, freed by the destructor. No launched operation may still use it
// then: it may be handed out again at once. Move-only.
class Buffer {
 public:
  using Deleter = void (*)(void* data, int64_t bytes);
  Buffer() = default;
  Buffer(void* data, int64_t bytes, Device device, Deleter deleter)
      : data_(data), bytes_(bytes), device_(device), deleter_(deleter) {}
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  void reset();
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  Deleter deleter_ = nullptr;
};

// An ordered queue of operations. The CPU backends complete each operation before the call returns.
class Stream {
 public:
  virtual ~Stream() = default;
  // Waits for all operations launched so far. Returns the first error since the last call.
  virtual absl::Status Synchronize() = 0;
};

// Scratch memory lent to one operation, 64-byte aligned. Memory of the device.
struct Workspace {
  void* data = nullptr;
  int64_t bytes = 0;
};

// A weight matrix [n, k] in the layout its backend multiplies fastest. Immutable; shared by any number of streams.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual int64_t bytes() const = 0;
};

enum class Epilogue : uint8_t {
  kNone,
  kSiluMul,  // n = 2m; out[:, j] = silu(y[:, j]) * y[:, m + j]; out has m columns
};

// The location of one segment's keys and values, for all layers: an encoding, or the private KV of a request. Block b
// of head h of layer l starts at layer_data[l] + h * head_stride + (block_table ? block_table[b] : b) * block_stride
// and is laid out as in base/slab.h for a block of n tokens, where n = 64 with `padded_blocks` (private pages), and
// otherwise the number of tokens in the block.
struct KvSegment {
  Codec codec = Codec::kRawF32;  // raw-f32, raw-bf16 or q8 (read in place)
  absl::Span<const std::byte* const> layer_data;
  const int32_t* block_table = nullptr;  // [ceil(tokens / 64)]
  int64_t head_stride = 0;               // bytes
  int64_t block_stride = 0;              // bytes
  int64_t tokens = 0;                    // may be 0
  bool padded_blocks = false;
  // Ascending global positions of the tokens (private KV: keys are rotated to them). nullptr: for a reader at offset o,
  // token j is at position o + j, and its key is rotated to j.
  const int64_t* positions = nullptr;
};

// One request's read of one segment: rows [row_begin, row_begin + row_count) read `segment` placed at `offset`. Row r
// sees token j iff position(j) <= position(r), position(j) > position(r) - window if the layer has a window, and bit j
// of `hidden` (word j / 64, bit j % 64) is clear (nullptr: nothing is hidden). With KvSegment::positions, offset must
// be 0. The reads of a row share one softmax over everything the row sees; a segment read at two offsets counts twice.
struct KvRead {
  int32_t segment = 0;
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t offset = 0;
  const uint64_t* hidden = nullptr;  // ceil(tokens / 64) words
};

// The input of attention in a forward pass. A segment shared by several requests is listed once and read once. The
// spans must outlive the plan made from them.
struct AttentionBatch {
  absl::Span<const int64_t> positions;  // [rows] global position of each fresh row
  absl::Span<const KvSegment> segments;
  absl::Span<const KvRead> reads;       // ordered by segment
  absl::Span<const Rope* const> ropes;  // the rope tables for layers to choose from; AttentionParams::rope is an index
                                        // into them
};

// The schedule for one batch, with query angles (position - offset) computed in f64. Splits have a fixed size of 256
// tokens, so results do not depend on the rest of the batch.
class AttentionPlan {
 public:
  virtual ~AttentionPlan() = default;
  virtual int64_t rows() const = 0;
};

// Per layer.
struct AttentionParams {
  int64_t heads = 0;             // H
  int64_t kv_heads = 0;          // G
  int64_t head_dim = 0;          // D
  float scale = 0;               // of the scores; usually 1/sqrt(D)
  float softcap = 0;             // scores = cap * tanh(scores / cap); 0: none
  int64_t window = 0;            // tokens a row sees, including itself; 0: all
  const float* sinks = nullptr;  // [H] logits that join the softmax without a value; nullptr: none
  int rope = 0;
};

struct EmbedArgs {
  Tensor ids;    // [rows] i32; ids >= vocab take row (id - vocab) of `extra`
  Tensor table;  // [vocab, hidden] f32|bf16
  Tensor extra;  // [n, hidden] f32, or data == nullptr
  Tensor out;    // [rows, hidden] f32
};

struct AddRmsNormArgs {
  Tensor residual;  // [rows, hidden] f32, in and out: residual += delta
  Tensor delta;     // [rows, hidden] f32|bf16, or data == nullptr
  Tensor weight;    // [hidden] f32
  float eps = 0;
  Tensor out;  // [rows, hidden] f32|bf16: residual / sqrt(mean(residual^2) + eps) * weight
};

struct LinearArgs {
  Tensor x;                              // [rows, k] f32|bf16
  const PackedMatrix* weight = nullptr;  // [n, k]
  Tensor bias;                           // [n] f32, or data == nullptr
  Epilogue epilogue = Epilogue::kNone;
  Tensor out;           // [rows, n] (or m, see Epilogue) f32|bf16: x W^T + bias
  Workspace workspace;  // LinearWorkspaceBytes
};

// Pages of private KV of one layer: page p holds 64 tokens as [kv_head][K, V][64][dim] of `dtype`; [2 * 64, dim] is
// dense. Here and in LinkedAttention, rotation multiplies the rotated dimensions by Rope::attention_factor; dimensions
// beyond rotary_dim pass unchanged.
struct QkvFinishArgs {
  AttentionParams params;
  Tensor qkv;     // [rows, (H + 2G) * D] f32|bf16: q heads, then k heads, then v heads
  Tensor bias;    // [(H + 2G) * D] f32, or data == nullptr
  Tensor q_norm;  // [D] f32 RMS norm per head (qwen3), or data == nullptr
  Tensor k_norm;  // [D]
  float norm_eps = 0;
  const Rope* rope = nullptr;
  Tensor positions;  // [rows] i64: K is rotated here (after bias and norm)
  Tensor slots;      // [rows] i64: page * 64 + token within the page
  Tensor pages;      // [pages, G, 2 * 64, D] f32|bf16
  Tensor q_out;      // [rows, H, D] f32|bf16, not rotated
};

struct LinkedAttentionArgs {
  const AttentionPlan* plan = nullptr;
  int64_t layer = 0;
  AttentionParams params;
  Tensor q;    // [rows, H, D] f32|bf16, not rotated
  Tensor out;  // [rows, H * D] f32|bf16; 0 for a row that sees nothing
  // [rows, H] f32 natural log of the sum of exponentials over keys, without the sink (-inf: sees nothing), or data ==
  // nullptr.
  Tensor lse;
  Workspace workspace;  // AttentionWorkspaceBytes
};

// What a staged linker observes to choose tokens. KeyMass: how much of some rows' attention each token receives.
// KvDeviation: how far a token's recomputed keys and values are from the cached ones.
struct KeyMassArgs {
  const AttentionPlan* plan = nullptr;
  int64_t layer = 0;
  AttentionParams params;
  // What LinkedAttention read and wrote for this plan, layer and params (of which sinks take no part).
  Tensor q;               // [rows, H, D] f32|bf16
  Tensor lse;             // [rows, H] f32
  int64_t row_begin = 0;  // the rows that count
  int64_t row_count = 0;
  // [tokens of all reads' segments] f32, in and out: the tokens of the plan's reads, one read after another. To each is
  // added exp(score - lse), summed over those of the rows that see it and all heads; to a hidden token, nothing.
  Tensor mass;
  Workspace workspace;  // AttentionWorkspaceBytes
};

// CacheBlend (arXiv 2405.16444, section 4) takes the difference itself. Here keys and values are each relative to the
// cached ones, so that neither outweighs the other:
//   out = sum (k' - k)^2 / sum k^2 + sum (v' - v)^2 / sum v^2
// over kv heads and dimensions; k' and v' are recomputed, k is rotated forward by `offset` (the pure rotation). A
// quotient whose numerator is 0 is 0. Results do not depend on the other rows.
struct KvDeviationArgs {
  KvSegment segment;  // cached; a codec that attention reads in place
  int64_t layer = 0;  // of the segment
  int64_t offset = 0;
  const Rope* rope = nullptr;
  Tensor tokens;  // [rows] i64: the segment's token that a row recomputes
  Tensor slots;   // [rows] i64: its recomputed key and value, as in QkvFinishArgs
  Tensor pages;   // [pages, G, 2 * 64, D] f32|bf16
  Tensor out;     // [rows] f32
};

// Pack turns one layer's private KV (keys rotated to 0..n-1) into a slab; Decode turns a slab into a raw one.
// kernels/codec.h defines the arithmetic of q8 and q4 to the bit. "Rotates back" and "forward" mean the pure rotation:
// an attention factor stays in the keys. A key or value that is not finite (or has no finite code) is INTERNAL at
// Synchronize(): such an encoding must not be stored.
struct PackArgs {
  SlabShape shape;                       // of `slab`
  Tensor pages;                          // [pages, G, 2 * 64, D] f32|bf16
  const int32_t* block_table = nullptr;  // [shape.blocks()] page of each block; host memory
  const Rope* rope = nullptr;            // q4 rotates keys back
  Tensor slab;                           // u8 [shape.slab_bytes()]; padding is zeroed
};
struct DecodeArgs {
  SlabShape source_shape;
  Tensor source;                  // u8 [source_shape.slab_bytes()]
  Codec codec = Codec::kRawBf16;  // raw-bf16 or raw-f32: the codec of `out`, keys rotated locally
  const Rope* rope = nullptr;     // q4 rotates keys forward
  Tensor out;                     // u8 [slab_bytes() of the same shape under `codec`]
};

// The materialising shift: rotates keys by `delta` positions (the pure rotation, no attention factor) and writes them
// in another engine's layout. Row t is read at in + t * in_strides[0] + g * in_strides[1] and written at out + slots[t]
// * out_strides[0] + g * out_strides[1] (elements), so strides express both NHD and HND.
struct ShiftKeysArgs {
  const Rope* rope = nullptr;
  int64_t delta = 0;
  Tensor in;     // [tokens, G, D] f32|bf16, any strides except the last
  Tensor slots;  // [tokens] i64
  Tensor out;    // [slots, G, D] same dtype as `in`
};

struct ChecksumArgs {
  Tensor bytes;                       // u8
  absl::Span<const int64_t> offsets;  // [n] host memory
  absl::Span<const int64_t> lengths;  // [n]
  Tensor out;                         // [n] u64: XXH3-64, seed 0
};

// Sampling of one row. temperature 0 is greedy (ties: the lowest id). Filters apply in the order top_k, top_p, min_p,
// on the distribution after temperature; kernels/sampling.h defines them. The random number is Philox4x32-10(key =
// seed, counter = position): stateless, the same on every backend. A NaN logit counts as -inf; of a row with no logit
// above -inf the result is kNoToken, and the others are not concerned.
struct SampleParams {
  float temperature = 0;
  int32_t top_k = 0;  // 0: all
  float top_p = 1;    // 1: all; 0 keeps only the most probable token
  float min_p = 0;    // relative to the largest probability; 0: all
  uint64_t seed = 0;
  int64_t position = 0;
};
// What a row is sampled from, in place of its logits: those of `tokens` adjusted, and -inf for what is not allowed.
struct RowAdjustments {
  absl::Span<const LogitAdjustment> tokens;  // ascending, each token once
  // [ceil(vocab / 32)]: token t is allowed if bit t % 32 of word t / 32 is set. nullptr: all are.
  const uint32_t* allowed = nullptr;
  bool any() const { return !tokens.empty() || allowed != nullptr; }
};
inline constexpr int32_t kNoToken = -1;
struct SampleArgs {
  Tensor logits;                                      // [rows, vocab] f32
  absl::Span<const SampleParams> params;              // [rows]
  Tensor out;                                         // [rows] i32
  Workspace workspace;                                // SampleWorkspaceBytes
  absl::Span<const RowAdjustments> adjustments = {};  // [rows], or empty: of no row
};

// Log-probabilities: the log-softmax of rows of logits as they are, before Sample adjusts anything or divides by a
// temperature. A NaN logit counts as -inf; in a row with no logit above -inf all are -inf. Sums are in f64.
inline constexpr int64_t kMaxLikeliest = 20;
struct LogprobsArgs {
  Tensor logits;                   // [all rows, vocab] f32
  absl::Span<const int64_t> rows;  // of these, the n that are asked for
  Tensor tokens;                   // [all rows] i32: the token of each row, as Sample's out; kNoToken: -inf
  int64_t top = 0;                 // the likeliest tokens, at most kMaxLikeliest
  Tensor out;                      // [n, 1 + top] f32: of the row's token, then of the likeliest
  Tensor likeliest;                // [n, top] i32: by logit, ties by lower id; kNoToken where no more is above -inf
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;  // "ref", "cpu", "cuda"
  virtual Device device() const = 0;
  // The preferred type of activations and private KV: f32, or bf16 if the machine multiplies it faster.
  virtual Dtype compute_dtype() const = 0;
  virtual std::unique_ptr<Stream> NewStream() = 0;
  // RESOURCE_EXHAUSTED when there is no memory.
  virtual absl::StatusOr<Buffer> Allocate(int64_t bytes) = 0;
  // Host memory for background copies: page-locked for a device, ordinary memory for a host backend. Copies from other
  // host memory may block until they have read it.
  virtual absl::StatusOr<Buffer> AllocatePinned(int64_t bytes) = 0;
  // Like Allocate, for memory that a network may write to: no pool ever reuses it. Allocating and freeing may wait for
  // the device, so use it for long-lived memory.
  virtual absl::StatusOr<Buffer> AllocateForNetwork(int64_t bytes) { return Allocate(bytes); }
  // Copy between host memory and this backend's; CopyIn may also read this backend's memory. Both memories must stay
  // valid until Synchronize().
  virtual absl::Status CopyIn(Stream& stream, const void* host, void* device, int64_t bytes) = 0;
  virtual absl::Status CopyOut(Stream& stream, const void* device, void* host, int64_t bytes) = 0;

  // weight: [n, k] f32|bf16, dense, host memory; may be freed after the call.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWeights(const Tensor& weight) = 0;
  // INVALID_ARGUMENT for inconsistent ranges. Reuses `previous` (may be nullptr) if possible.
  virtual absl::StatusOr<std::unique_ptr<AttentionPlan>> Plan(const AttentionBatch& batch,
                                                              std::unique_ptr<AttentionPlan> previous) = 0;

  // Enough for any launch of these sizes or smaller.
  virtual int64_t LinearWorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue epilogue) const = 0;
  virtual int64_t AttentionWorkspaceBytes(const AttentionPlan& plan, const AttentionParams& params) const = 0;
  // `adjusted`: rows with adjustments.
  virtual int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocab, int64_t adjusted) const = 0;

  virtual absl::Status Embed(Stream& stream, const EmbedArgs& args) = 0;
  virtual absl::Status AddRmsNorm(Stream& stream, const AddRmsNormArgs& args) = 0;
  virtual absl::Status Linear(Stream& stream, const LinearArgs& args) = 0;
  virtual absl::Status QkvFinish(Stream& stream, const QkvFinishArgs& args) = 0;
  // Also serves as the dense causal attention of an encode, with a plan in which each row reads only its own private
  // segment.
  virtual absl::Status LinkedAttention(Stream& stream, const LinkedAttentionArgs& args) = 0;
  virtual absl::Status KeyMass(Stream& stream, const KeyMassArgs& args) = 0;
  virtual absl::Status KvDeviation(Stream& stream, const KvDeviationArgs& args) = 0;
  virtual absl::Status Pack(Stream& stream, const PackArgs& args) = 0;
  virtual absl::Status Decode(Stream& stream, const DecodeArgs& args) = 0;
  virtual absl::Status ShiftKeys(Stream& stream, const ShiftKeysArgs& args) = 0;
  virtual absl::Status Checksum(Stream& stream, const ChecksumArgs& args) = 0;
  virtual absl::Status Sample(Stream& stream, const SampleArgs& args) = 0;
  virtual absl::Status Logprobs(Stream& stream, const LogprobsArgs& args) = 0;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_KERNELS_H_
