// Operations that work row by row: embedding, norm, the fused end of the qkv projection.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kRowThreads = 256;
constexpr int kQkvThreads = 128;
constexpr int64_t kPage = 64;  // tokens

// One block per row.
KVLINK_KERNEL(kRowThreads, 4) EmbedKernel(EmbedLaunch l) {
  const int64_t row = BlockX();
  const int64_t id = l.ids[row];
  if (id < 0 || id >= l.vocab + l.extra_rows) {
    if (ThreadIndex() == 0) Report(l.fault, Fault::kEmbedId, row, id, l.vocab + l.extra_rows);
    return;
  }
  const View& source = id < l.vocab ? l.table : l.extra;
  const int64_t from = (id < l.vocab ? id : id - l.vocab) * source.strides[0], to = row * l.out.strides[0];
  for (int64_t j = ThreadIndex(); j < l.hidden; j += BlockThreads()) Store(l.out, to + j, Load(source, from + j));
}

// One block per row: the sum is written while its squares are accumulated, and read again from the nearest cache.
KVLINK_KERNEL(kRowThreads, 4) AddRmsNormKernel(AddRmsNormLaunch l) {
  const int64_t row = BlockX();
  float* residual = static_cast<float*>(l.residual.data) + row * l.residual.strides[0];
  const int64_t delta = row * l.delta.strides[0];
  float squares = 0;
  for (int64_t j = ThreadIndex(); j < l.hidden; j += BlockThreads()) {
    float value = residual[j];
    if (l.delta.data != nullptr) {
      value += Load(l.delta, delta + j);
      residual[j] = value;
    }
    squares += value * value;
  }
  const float sum = BlockSum(squares, reinterpret_cast<float*>(SharedMemory()));
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(l.hidden) + l.eps);
  const int64_t to = row * l.out.strides[0];
  for (int64_t j = ThreadIndex(); j < l.hidden; j += BlockThreads()) {
    Store(l.out, to + j, residual[j] * scale * l.weight[j]);
  }
}

// Elements of one head of one row after bias and norm.
struct HeadReader {
  const QkvFinishLaunch& l;
  int64_t from, column;
  const float* norm;
  float scale;

  KVLINK_DEVICE HeadReader(const QkvFinishLaunch& launch, int64_t row, int64_t head, const float* head_norm)
      : l(launch), from(row * launch.qkv.strides[0] + head * launch.dim), column(head * launch.dim), norm(head_norm) {
    scale = 1;
    if (norm == nullptr) return;
    float squares = 0;
    for (int64_t d = ThreadIndex() % 32; d < l.dim; d += 32) squares += Raw(d) * Raw(d);
    scale = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(l.dim) + l.norm_eps);
  }
  KVLINK_DEVICE float Raw(int64_t d) const {
    const float value = Load(l.qkv, from + d);
    return l.bias == nullptr ? value : value + l.bias[column + d];
  }
  KVLINK_DEVICE float operator()(int64_t d) const {
    const float value = Raw(d);
    return norm == nullptr ? value : value * scale * norm[d];
  }
};

// One warp per (row, head of q, k or v).
KVLINK_KERNEL(kQkvThreads, 4) QkvFinishKernel(QkvFinishLaunch l) {
  const int64_t all = l.heads + 2 * l.kv_heads;
  const int64_t item = BlockX() * (kQkvThreads / 32) + ThreadIndex() / 32;
  const int64_t row = item / all, head = item % all, lane = ThreadIndex() % 32;
  if (row >= l.rows) return;
  if (head < l.heads) {
    const HeadReader q(l, row, head, l.q_norm);
    const int64_t to = row * l.q_out.strides[0] + head * l.q_out.strides[1];
    for (int64_t d = lane; d < l.dim; d += 32) Store(l.q_out, to + d, q(d));
    return;
  }
  const int64_t slot = l.slots[row];
  if (slot < 0 || slot >= l.slot_count) {
    if (lane == 0) Report(l.fault, Fault::kQkvSlot, row, slot, l.slot_count);
    return;
  }
  const bool key = head < l.heads + l.kv_heads;
  const int64_t kv_head = key ? head - l.heads : head - l.heads - l.kv_heads;
  const int64_t to = slot / kPage * l.pages.strides[0] + kv_head * l.pages.strides[1] +
                     ((key ? 0 : kPage) + slot % kPage) * l.pages.strides[2];
  const HeadReader x(l, row, head, key ? l.k_norm : nullptr);
  const int64_t half = key ? l.rope.half : 0, position = l.positions[row];
  for (int64_t i = lane; i < half; i += 32) {
    double c, s;
    Angle(l.rope, position, i, &c, &s);
    const float cosine = static_cast<float>(c * l.rope.attention_factor);
    const float sine = static_cast<float>(s * l.rope.attention_factor);
    const float a = x(i), b = x(i + half);
    Store(l.pages, to + i, a * cosine - b * sine);
    Store(l.pages, to + i + half, b * cosine + a * sine);
  }
  for (int64_t d = 2 * half + lane; d < l.dim; d += 32) Store(l.pages, to + d, x(d));
}

}  // namespace

int LaunchEmbed(void* stream, const EmbedLaunch& launch) {
  return Launch(stream, launch.rows, 1, kRowThreads, 0, EmbedKernel, launch);
}

int LaunchAddRmsNorm(void* stream, const AddRmsNormLaunch& launch) {
  return Launch(stream, launch.rows, 1, kRowThreads, kRowThreads / 32 * 4, AddRmsNormKernel, launch);
}

int LaunchQkvFinish(void* stream, const QkvFinishLaunch& launch) {
  const int64_t items = launch.rows * (launch.heads + 2 * launch.kv_heads), warps = kQkvThreads / 32;
  return Launch(stream, (items + warps - 1) / warps, 1, kQkvThreads, 0, QkvFinishKernel, launch);
}

}  // namespace kvlink::kernels::cuda
