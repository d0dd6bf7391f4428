// The launches of operations that work row by row or block by block: plain structures passed to kernels by value, so
// that files with kernels need neither Abseil nor kernels.h. Arguments are already validated; pointers are device
// memory. Each function returns an error for LaunchStatus of runtime.h.
#ifndef KVLINK_KERNELS_CUDA_OPERATIONS_H_
#define KVLINK_KERNELS_CUDA_OPERATIONS_H_

#include <cstdint>

#include "kernels/logit_adjustment.h"

namespace kvlink::kernels::cuda {

// Errors that only the device can see. The first thread that meets one records it; Stream::Synchronize reports it.
enum class Fault : uint32_t { kNone, kEmbedId, kQkvSlot, kPackNotFinite, kShiftSlot, kDeviationToken, kDeviationSlot };
struct FaultRecord {
  uint32_t fault = 0;
  int64_t index = 0, value = 0, limit = 0;
};

// A tensor of f32 or bf16. Strides in elements; the last is 1.
struct View {
  void* data = nullptr;
  bool bf16 = false;
  int64_t strides[3] = {};
};

// turns[i] = inv_freq[i] / 2 pi.
struct RopeView {
  const double* turns = nullptr;
  int64_t half = 0;  // rotary_dim / 2
  double attention_factor = 1;
};

// rows.cu
struct EmbedLaunch {
  const int32_t* ids = nullptr;
  View table, extra, out;
  int64_t rows = 0, hidden = 0, vocab = 0, extra_rows = 0;
  FaultRecord* fault = nullptr;
};
int LaunchEmbed(void* stream, const EmbedLaunch& launch);

struct AddRmsNormLaunch {
  View residual, delta, out;  // delta.data may be nullptr
  const float* weight = nullptr;
  int64_t rows = 0, hidden = 0;
  float eps = 0;
};
int LaunchAddRmsNorm(void* stream, const AddRmsNormLaunch& launch);

struct QkvFinishLaunch {
  View qkv, pages, q_out;
  const float* bias = nullptr;    // or nullptr
  const float* q_norm = nullptr;  // or nullptr
  const float* k_norm = nullptr;  // or nullptr
  float norm_eps = 0;
  RopeView rope;
  const int64_t* positions = nullptr;
  const int64_t* slots = nullptr;
  int64_t rows = 0, heads = 0, kv_heads = 0, dim = 0, slot_count = 0;
  FaultRecord* fault = nullptr;
};
int LaunchQkvFinish(void* stream, const QkvFinishLaunch& launch);

// linear.cu: steps before and after the matrix product.
struct RoundRowsLaunch {
  View from;
  uint16_t* to = nullptr;  // [rows][padded] bf16, zeros from `columns` on
  int64_t rows = 0, columns = 0, padded = 0;
};
int LaunchRoundRows(void* stream, const RoundRowsLaunch& launch);

struct FinishLinearLaunch {
  View product, out;
  const float* bias = nullptr;  // [product columns] or nullptr
  int64_t rows = 0, columns = 0;
  bool silu_mul = false;  // out[j] = silu(product[j]) * product[columns + j]
};
int LaunchFinishLinear(void* stream, const FinishLinearLaunch& launch);

// slabs.cu, pack.cu, deviation.cu. The location of a slab's blocks; see base/slab.h.
struct SlabView {
  unsigned char* data = nullptr;
  int codec = 0;
  int64_t kv_heads = 0, dim = 0, tokens = 0, row_bytes = 0, head_bytes = 0, block_stride = 0;
};
struct PackLaunch {
  View pages;
  const int32_t* block_table = nullptr;  // of the blocks from first_block on
  RopeView rope;
  SlabView slab;
  int64_t first_block = 0, blocks = 0;
  FaultRecord* fault = nullptr;
};
int LaunchPack(void* stream, const PackLaunch& launch);

struct DecodeLaunch {
  SlabView source, out;
  RopeView rope;
};
int LaunchDecode(void* stream, const DecodeLaunch& launch);

struct ShiftKeysLaunch {
  View in, out;
  RopeView rope;
  int64_t delta = 0;
  const int64_t* slots = nullptr;
  int64_t tokens = 0, kv_heads = 0, dim = 0, slot_count = 0;
  FaultRecord* fault = nullptr;
};
int LaunchShiftKeys(void* stream, const ShiftKeysLaunch& launch);

// deviation.cu
struct KvDeviationLaunch {
  SlabView cached;                 // of the segment; its last block may be longer
  const int32_t* table = nullptr;  // of the segment's blocks, or nullptr
  View pages;
  RopeView rope;
  int64_t offset = 0;
  const int64_t* tokens = nullptr;
  const int64_t* slots = nullptr;
  float* out = nullptr;
  int64_t rows = 0, token_count = 0, slot_count = 0;
  FaultRecord* fault = nullptr;
};
int LaunchKvDeviation(void* stream, const KvDeviationLaunch& launch);

// checksum.cu
struct ChecksumLaunch {
  const unsigned char* bytes = nullptr;
  const int64_t* ranges = nullptr;  // [count][offset, length]
  uint64_t* out = nullptr;
  int64_t count = 0;
};
int LaunchChecksum(void* stream, const ChecksumLaunch& launch);

// sample.cu. Rows with adjustments are sampled from copies, [adjusted rows][vocab].
struct MaskLaunch {
  float* adjusted = nullptr;
  const uint32_t* masks = nullptr;  // [rows][1 + words]: the adjusted row, then RowAdjustments::allowed
  int64_t rows = 0, vocab = 0, words = 0;
};
int LaunchMask(void* stream, const MaskLaunch& launch);

struct PlacedAdjustment {
  int64_t place = 0;  // adjusted row * vocab + token
  LogitAdjustment adjustment;
};
struct AdjustLaunch {
  float* adjusted = nullptr;
  const PlacedAdjustment* adjustments = nullptr;  // no place twice
  int64_t count = 0;
};
int LaunchAdjust(void* stream, const AdjustLaunch& launch);

struct SampleRowParams {
  float temperature = 0, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  uint64_t seed = 0;
  int64_t position = 0;
  int64_t adjusted = -1;  // the adjusted row; -1: it has none
};
struct SampleLaunch {
  const float* logits = nullptr;
  const float* adjusted = nullptr;
  int64_t stride = 0, rows = 0, vocab = 0;
  const SampleRowParams* params = nullptr;
  int32_t* out = nullptr;
};
int LaunchSample(void* stream, const SampleLaunch& launch);

struct LogprobsLaunch {
  const float* logits = nullptr;
  const int64_t* rows = nullptr;  // [count]
  const int32_t* tokens = nullptr;
  float* out = nullptr;
  int32_t* likeliest = nullptr;
  int64_t stride = 0, count = 0, vocab = 0, top = 0, out_stride = 0, likeliest_stride = 0;
};
int LaunchLogprobs(void* stream, const LogprobsLaunch& launch);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_OPERATIONS_H_
