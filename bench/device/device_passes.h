// Forward passes of requests over documents, as worker/infer runs them, over an existing model: what bench_device
// times. Not thread-safe.
#ifndef KVLINK_BENCH_DEVICE_DEVICE_PASSES_H_
#define KVLINK_BENCH_DEVICE_DEVICE_PASSES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernels.h"
#include "worker/model/model.h"

namespace kvlink::bench {

class DevicePasses {
 public:
  // A request: its private keys and values, the offsets of its documents, and its last token.
  struct Request {
    explicit Request(model::KvPages* pages) : kv(pages) {}
    model::KvSequence kv;
    std::vector<int64_t> offsets;  // of the documents, in the order of segments
    int64_t length = 0;            // the next position
    int32_t token = 0;
  };
  using BeforeLayer = std::function<absl::Status(int64_t layer)>;

  // Private KV for `tokens` tokens of at most `requests` requests together; the model must outlive the object.
  static absl::StatusOr<std::unique_ptr<DevicePasses>> Create(const model::Model* model, int64_t tokens,
                                                              int64_t requests);
  const model::Model& model() const { return *model_; }
  std::unique_ptr<Request> NewRequest() const { return std::make_unique<Request>(pages_.get()); }

  // `concat`: half of the `fresh` tokens, the documents in the request's own order, then the other half; ends with its
  // first token. Every request reads all documents, listed once.
  absl::Status First(absl::Span<const std::unique_ptr<Request>> requests,
                     absl::Span<const kernels::KvSegment> documents, int64_t fresh, const BeforeLayer& before_layer);
  // Computes one more token for each.
  absl::Status Step(absl::Span<const std::unique_ptr<Request>> requests,
                    absl::Span<const kernels::KvSegment> documents);
  // A prefill of `tokens` tokens without documents, at most `chunk` rows per pass; ends with the first token.
  absl::Status Full(Request& request, int64_t tokens, int64_t chunk);
  // Computes keys and values of documents of `tokens` tokens each, one per request, in one pass.
  absl::Status Encode(absl::Span<const std::unique_ptr<Request>> requests, int64_t tokens);

 private:
  // The fresh rows of one request in a pass.
  struct Rows {
    Request* request = nullptr;
    std::vector<int64_t> positions;
    std::vector<int32_t> tokens;
  };

  explicit DevicePasses(const model::Model* model) : model_(model) {}
  // Any text will do.
  void AddText(int64_t begin, int64_t count, Rows* rows) const;
  absl::Status Run(absl::Span<const Rows> rows, absl::Span<const kernels::KvSegment> documents,
                   const BeforeLayer& before_layer, bool sample);
  absl::Status Sample(absl::Span<const Rows> rows, const kernels::Tensor& logits);

  const model::Model* const model_;
  std::unique_ptr<model::KvPages> pages_;
  std::unique_ptr<model::ForwardContext> context_;
  kernels::Buffer sampled_, workspace_;
  std::unique_ptr<kernels::Stream> stream_;  // for sampling; destroyed before the memory
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_DEVICE_PASSES_H_
