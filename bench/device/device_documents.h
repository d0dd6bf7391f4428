// Encodings of random keys and values, in host memory and in transit to a device. Lifetimes: the backend outlives
// everything here.
#ifndef KVLINK_BENCH_DEVICE_DEVICE_DOCUMENTS_H_
#define KVLINK_BENCH_DEVICE_DEVICE_DOCUMENTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/slab.h"
#include "kernels/device/slab_decoder.h"
#include "kernels/kernels.h"
#include "worker/files/config.h"

namespace kvlink::bench {

// Slabs like those of a model, packed from a few random pages. Not thread-safe.
class SlabMaker {
 public:
  // The rope must outlive the object.
  static absl::StatusOr<std::unique_ptr<SlabMaker>> Create(kernels::Backend* backend, const model::ModelConfig& config,
                                                           const kernels::Rope* rope);
  SlabShape Shape(Codec codec, int64_t tokens) const { return {codec, kv_heads_, head_dim_, tokens}; }
  // Fills `out`, device memory of shape.slab_bytes(), and waits for it. Consecutive numbers give different slabs.
  absl::Status Make(const SlabShape& shape, int64_t number, std::byte* out);

 private:
  static constexpr int64_t kPages = 8;
  SlabMaker(kernels::Backend* backend, const model::ModelConfig& config, const kernels::Rope* rope)
      : backend_(backend), rope_(rope), kv_heads_(config.kv_heads), head_dim_(config.head_dim) {}
  kernels::Tensor Pages() const;

  kernels::Backend* const backend_;
  const kernels::Rope* const rope_;
  const int64_t kv_heads_, head_dim_;
  kernels::Buffer pages_;
  std::unique_ptr<kernels::Stream> stream_;
};

// Encodings of documents of one length in pinned host memory. Immutable.
class HostDocuments {
 public:
  // RESOURCE_EXHAUSTED: not enough memory.
  static absl::StatusOr<std::unique_ptr<HostDocuments>> Make(kernels::Backend* backend, SlabMaker& maker,
                                                             const SlabShape& shape, int64_t layers, int64_t count);
  absl::Span<const std::byte> slab(int64_t document, int64_t layer) const;
  const SlabShape& shape() const { return shape_; }
  int64_t layers() const { return layers_; }
  // Whether a device copies them in place.
  bool pinned() const { return pinned_; }
  // Bytes of one document on a device.
  int64_t decoded_bytes() const { return layers_ * kernels::SlabDecoder::DecodedShape(shape_).slab_bytes(); }

 private:
  HostDocuments(const SlabShape& shape, int64_t layers) : shape_(shape), layers_(layers) {}
  const SlabShape shape_;
  const int64_t layers_;
  kernels::Buffer memory_;
  bool pinned_ = false;
};

// Documents in the form that attention reads: in device memory, or in the host's own if nothing needs decoding.
class DeviceDocuments {
 public:
  // Takes the first documents of `host`, each in a room of host->decoded_bytes(); `host` and the rooms must outlive the
  // object.
  DeviceDocuments(const HostDocuments* host, kernels::SlabDecoder* decoder, const std::vector<std::byte*>& rooms);
  DeviceDocuments(const DeviceDocuments&) = delete;
  DeviceDocuments& operator=(const DeviceDocuments&) = delete;
  absl::Span<const kernels::KvSegment> segments() const { return segments_; }
  int64_t count() const { return static_cast<int64_t>(segments_.size()); }
  int64_t layers() const { return host_->layers(); }
  // Thread-safe for different slabs.
  absl::Status Decode(int64_t document, int64_t layer);

 private:
  const HostDocuments* const host_;
  kernels::SlabDecoder* const decoder_;
  std::vector<std::vector<const std::byte*>> layers_;
  std::vector<kernels::KvSegment> segments_;
};

// Decodes all slabs of documents, layer by layer, in its own threads.
class Decoding {
 public:
  explicit Decoding(DeviceDocuments* documents);
  ~Decoding();
  Decoding(const Decoding&) = delete;
  Decoding& operator=(const Decoding&) = delete;
  // Returns when the layer of all documents is decoded, or the first error.
  absl::Status WaitLayer(int64_t layer);

 private:
  // As many slabs as a decoder handles at once.
  static constexpr int kThreads = 4;
  void Work();

  DeviceDocuments* const documents_;
  std::atomic<int64_t> next_{0};
  Mutex mutex_;
  CondVar decoded_;
  std::vector<int64_t> missing_ ABSL_GUARDED_BY(mutex_);  // slabs still missing, per layer
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_DEVICE_DOCUMENTS_H_
