// Packs random pages with the backend itself, so that slabs are valid in any codec.
#include "bench/device/device_documents.h"

#include <algorithm>
#include <random>

#include "base/status.h"
#include "kernels/bf16.h"

namespace kvlink::bench {

using kernels::Dtype;
using kernels::Tensor;

absl::StatusOr<std::unique_ptr<SlabMaker>> SlabMaker::Create(kernels::Backend* backend,
                                                             const model::ModelConfig& config,
                                                             const kernels::Rope* rope) {
  std::unique_ptr<SlabMaker> maker(new SlabMaker(backend, config, rope));
  std::vector<uint16_t> host(static_cast<size_t>(kPages * config.kv_heads * 2 * kBlockTokens * config.head_dim));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (uint16_t& value : host) value = kernels::FloatToBf16(normal(random));
  const auto bytes = static_cast<int64_t>(host.size() * sizeof(uint16_t));
  KVLINK_ASSIGN_OR_RETURN(maker->pages_, backend->Allocate(bytes));
  maker->stream_ = backend->NewStream();
  KVLINK_RETURN_IF_ERROR(backend->CopyIn(*maker->stream_, host.data(), maker->pages_.data(), bytes));
  KVLINK_RETURN_IF_ERROR(maker->stream_->Synchronize());
  return maker;
}

Tensor SlabMaker::Pages() const {
  return Tensor::Dense(pages_.data(), Dtype::kBf16, backend_->device(),
                       {kPages, kv_heads_, 2 * kBlockTokens, head_dim_});
}

absl::Status SlabMaker::Make(const SlabShape& shape, int64_t number, std::byte* out) {
  std::vector<int32_t> table(static_cast<size_t>(shape.blocks()));
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<int32_t>((number + static_cast<int64_t>(i)) % kPages);
  const Tensor slab = Tensor::Dense(out, Dtype::kU8, backend_->device(), {shape.slab_bytes()});
  KVLINK_RETURN_IF_ERROR(backend_->Pack(*stream_, {shape, Pages(), table.data(), rope_, slab}));
  return stream_->Synchronize();
}

absl::StatusOr<std::unique_ptr<HostDocuments>> HostDocuments::Make(kernels::Backend* backend, SlabMaker& maker,
                                                                   const SlabShape& shape, int64_t layers,
                                                                   int64_t count) {
  std::unique_ptr<HostDocuments> documents(new HostDocuments(shape, layers));
  const int64_t bytes = shape.slab_bytes();
  KVLINK_ASSIGN_OR_RETURN(documents->memory_, backend->AllocatePinned(count * layers * bytes));
  documents->pinned_ = backend->device().type != kernels::DeviceType::kCpu;
  KVLINK_ASSIGN_OR_RETURN(const kernels::Buffer slab, backend->Allocate(bytes));
  const std::unique_ptr<kernels::Stream> stream = backend->NewStream();
  for (int64_t i = 0; i < count * layers; ++i) {
    KVLINK_RETURN_IF_ERROR(maker.Make(shape, i, static_cast<std::byte*>(slab.data())));
    KVLINK_RETURN_IF_ERROR(
        backend->CopyOut(*stream, slab.data(), static_cast<std::byte*>(documents->memory_.data()) + i * bytes, bytes));
    KVLINK_RETURN_IF_ERROR(stream->Synchronize());
  }
  return documents;
}

absl::Span<const std::byte> HostDocuments::slab(int64_t document, int64_t layer) const {
  const int64_t bytes = shape_.slab_bytes();
  return {static_cast<const std::byte*>(memory_.data()) + (document * layers_ + layer) * bytes,
          static_cast<size_t>(bytes)};
}

DeviceDocuments::DeviceDocuments(const HostDocuments* host, kernels::SlabDecoder* decoder,
                                 const std::vector<std::byte*>& rooms)
    : host_(host), decoder_(decoder), layers_(rooms.size()), segments_(rooms.size()) {
  const SlabShape shape = kernels::SlabDecoder::DecodedShape(host->shape());
  for (size_t i = 0; i < rooms.size(); ++i) {
    for (int64_t layer = 0; layer < host->layers(); ++layer) {
      layers_[i].push_back(decoder->Decodes(host->shape().codec) ? rooms[i] + layer * shape.slab_bytes()
                                                                 : host->slab(static_cast<int64_t>(i), layer).data());
    }
    segments_[i].codec = shape.codec;
    segments_[i].layer_data = layers_[i];
    segments_[i].head_stride = shape.head_bytes();
    segments_[i].block_stride = shape.block_stride();
    segments_[i].tokens = shape.tokens;
  }
}

absl::Status DeviceDocuments::Decode(int64_t document, int64_t layer) {
  if (!decoder_->Decodes(host_->shape().codec)) return absl::OkStatus();
  std::byte* const room = const_cast<std::byte*>(layers_[static_cast<size_t>(document)][static_cast<size_t>(layer)]);
  const absl::Span<const std::byte> slab = host_->slab(document, layer);
  return host_->pinned() ? decoder_->DecodePinned(host_->shape(), {slab}, room)
                         : decoder_->Decode(host_->shape(), slab, room);
}

Decoding::Decoding(DeviceDocuments* documents)
    : documents_(documents), missing_(static_cast<size_t>(documents->layers()), documents->count()) {
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Work(); });
}

Decoding::~Decoding() {
  for (std::thread& thread : threads_) thread.join();
}

void Decoding::Work() {
  const int64_t count = documents_->count(), slabs = count * documents_->layers();
  for (int64_t i = next_.fetch_add(1); i < slabs; i = next_.fetch_add(1)) {
    const absl::Status decoded = documents_->Decode(i % count, i / count);
    MutexLock lock(&mutex_);
    status_.Update(decoded);
    if (--missing_[static_cast<size_t>(i / count)] == 0 || !status_.ok()) decoded_.SignalAll();
    if (!status_.ok()) return;
  }
}

absl::Status Decoding::WaitLayer(int64_t layer) {
  MutexLock lock(&mutex_);
  while (status_.ok() && missing_[static_cast<size_t>(layer)] > 0) decoded_.Wait(&mutex_);
  return status_;
}

}  // namespace kvlink::bench
