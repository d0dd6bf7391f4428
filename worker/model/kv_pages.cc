// Pages of private keys and values from one allocation, with a free list: a sequence takes pages as it grows and
// returns them when it ends.
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "worker/model/model.h"

namespace kvlink::model {
namespace {

// Bytes of one page of one layer.
int64_t LayerPageBytes(const ModelConfig& config, kernels::Dtype dtype) {
  return config.kv_heads * 2 * kBlockTokens * config.head_dim * kernels::DtypeBytes(dtype);
}

}  // namespace

struct KvPages::Impl {
  kernels::Buffer memory;  // layer after layer, page after page
  kernels::Device device;
  int64_t pages = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  mutable Mutex mutex;
  std::vector<int32_t> free ABSL_GUARDED_BY(mutex);  // taken from the back
};

KvPages::KvPages() : impl_(std::make_unique<Impl>()) {}
KvPages::~KvPages() = default;

int64_t KvPages::PageBytes(const ModelConfig& config, kernels::Dtype dtype) {
  return config.layers * LayerPageBytes(config, dtype);
}

absl::StatusOr<std::unique_ptr<KvPages>> KvPages::Create(kernels::Backend* backend, const ModelConfig& config,
                                                         kernels::Dtype dtype, int64_t pages) {
  if (dtype != kernels::Dtype::kF32 && dtype != kernels::Dtype::kBf16) {
    return absl::InvalidArgumentError("private KV is f32 or bf16");
  }
  if (pages < 1 || pages > (int64_t{1} << 31) - 1) {
    return absl::InvalidArgumentError(absl::StrCat("private KV of ", pages, " pages; it has at least one"));
  }
  std::unique_ptr<KvPages> result(new KvPages());
  const int64_t layer_bytes = LayerPageBytes(config, dtype) * pages;
  KVLINK_ASSIGN_OR_RETURN(result->impl_->memory, backend->Allocate(layer_bytes * config.layers));
  result->dtype_ = dtype;
  result->block_stride_ = LayerPageBytes(config, dtype);
  result->head_stride_ = result->block_stride_ / config.kv_heads;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    result->layer_data_.push_back(static_cast<const std::byte*>(result->impl_->memory.data()) + layer * layer_bytes);
  }
  result->impl_->device = backend->device();
  result->impl_->pages = pages;
  result->impl_->kv_heads = config.kv_heads;
  result->impl_->head_dim = config.head_dim;
  MutexLock lock(&result->impl_->mutex);
  for (int64_t page = pages - 1; page >= 0; --page) result->impl_->free.push_back(static_cast<int32_t>(page));
  return result;
}

kernels::Tensor KvPages::layer(int64_t layer) const {
  auto* data = const_cast<std::byte*>(layer_data_[layer]);
  return kernels::Tensor::Dense(data, dtype_, impl_->device,
                                {impl_->pages, impl_->kv_heads, 2 * kBlockTokens, impl_->head_dim});
}

absl::StatusOr<std::vector<int32_t>> KvPages::Take(int64_t count) {
  MutexLock lock(&impl_->mutex);
  const auto free = static_cast<int64_t>(impl_->free.size());
  if (count > free) {
    return absl::ResourceExhaustedError(absl::StrCat("private KV is full: ", count, " pages of ", kBlockTokens,
                                                     " tokens wanted, ", free, " of ", impl_->pages,
                                                     " free; end other requests or give this process more"));
  }
  std::vector<int32_t> pages(impl_->free.rbegin(), impl_->free.rbegin() + count);
  impl_->free.resize(free - count);
  return pages;
}

void KvPages::Give(absl::Span<const int32_t> pages) {
  MutexLock lock(&impl_->mutex);
  impl_->free.insert(impl_->free.end(), pages.rbegin(), pages.rend());
}

int64_t KvPages::free_pages() const {
  MutexLock lock(&impl_->mutex);
  return static_cast<int64_t>(impl_->free.size());
}

int64_t KvPages::total_pages() const { return impl_->pages; }

KvSequence::~KvSequence() { pages_->Give(block_table_); }

absl::StatusOr<std::vector<int64_t>> KvSequence::Append(absl::Span<const int64_t> positions) {
  int64_t last = positions_.empty() ? -1 : positions_.back();
  for (int64_t position : positions) {
    if (position <= last) {
      return absl::InvalidArgumentError(
          absl::StrCat("position ", position, " after ", last, ": private KV is appended in ascending position"));
    }
    last = position;
  }
  const auto have = static_cast<int64_t>(block_table_.size());
  const int64_t tokens_after = tokens() + static_cast<int64_t>(positions.size());
  const int64_t need = (tokens_after + kBlockTokens - 1) / kBlockTokens;
  if (need > have) {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> taken, pages_->Take(need - have));
    block_table_.insert(block_table_.end(), taken.begin(), taken.end());
  }
  std::vector<int64_t> slots;
  slots.reserve(positions.size());
  for (int64_t token = tokens(); token < tokens_after; ++token) {
    slots.push_back(int64_t{block_table_[token / kBlockTokens]} * kBlockTokens + token % kBlockTokens);
  }
  positions_.insert(positions_.end(), positions.begin(), positions.end());
  return slots;
}

void KvSequence::Truncate(int64_t tokens) {
  if (tokens >= this->tokens()) return;
  positions_.resize(tokens);
  const int64_t keep = (tokens + kBlockTokens - 1) / kBlockTokens;
  pages_->Give(absl::MakeConstSpan(block_table_).subspan(keep));
  block_table_.resize(keep);
}

kernels::KvSegment KvSequence::segment() const {
  kernels::KvSegment segment;
  segment.codec = pages_->codec();
  segment.layer_data = pages_->layer_data();
  segment.block_table = block_table_.data();
  segment.head_stride = pages_->head_stride();
  segment.block_stride = pages_->block_stride();
  segment.tokens = tokens();
  segment.padded_blocks = true;
  segment.positions = positions_.data();
  return segment;
}

}  // namespace kvlink::model
