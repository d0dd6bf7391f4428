// Builds batches over documents and private pages by hand, without the product's generator.
#include "bench/device/device_passes.h"

#include <algorithm>

#include "base/slab.h"
#include "base/status.h"

namespace kvlink::bench {
namespace {

// Passes of at most this many rows run as graphs, as in worker/infer.
constexpr int64_t kGraphRows = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePasses>> DevicePasses::Create(const model::Model* model, int64_t tokens,
                                                                   int64_t requests) {
  std::unique_ptr<DevicePasses> passes(new DevicePasses(model));
  kernels::Backend& backend = *model->backend();
  const int64_t pages = tokens / kBlockTokens + requests;  // the last page of each may be partly empty
  KVLINK_ASSIGN_OR_RETURN(passes->pages_,
                          model::KvPages::Create(&backend, model->config(), backend.compute_dtype(), pages));
  passes->context_ = model->NewContext();
  passes->stream_ = backend.NewStream();
  KVLINK_ASSIGN_OR_RETURN(passes->sampled_, backend.Allocate(requests * static_cast<int64_t>(sizeof(int32_t))));
  KVLINK_ASSIGN_OR_RETURN(
      passes->workspace_,
      backend.Allocate(std::max<int64_t>(64, backend.SampleWorkspaceBytes(requests, model->config().vocab, 0))));
  return passes;
}

void DevicePasses::AddText(int64_t begin, int64_t count, Rows* rows) const {
  for (int64_t position = begin; position < begin + count; ++position) {
    rows->positions.push_back(position);
    rows->tokens.push_back(static_cast<int32_t>((position * 7919 + 13) % model_->config().vocab));
  }
}

absl::Status DevicePasses::First(absl::Span<const std::unique_ptr<Request>> requests,
                                 absl::Span<const kernels::KvSegment> documents, int64_t fresh,
                                 const BeforeLayer& before_layer) {
  std::vector<Rows> rows(requests.size());
  for (size_t r = 0; r < requests.size(); ++r) {
    Request& request = *requests[r];
    rows[r].request = &request;
    AddText(0, fresh / 2, &rows[r]);
    request.length = fresh / 2;
    request.offsets.assign(documents.size(), 0);
    for (size_t i = 0; i < documents.size(); ++i) {
      const size_t document = (i + r) % documents.size();
      request.offsets[document] = request.length;
      request.length += documents[document].tokens;
    }
    AddText(request.length, fresh - fresh / 2, &rows[r]);
  }
  return Run(rows, documents, before_layer, true);
}

absl::Status DevicePasses::Step(absl::Span<const std::unique_ptr<Request>> requests,
                                absl::Span<const kernels::KvSegment> documents) {
  std::vector<Rows> rows;
  for (const std::unique_ptr<Request>& request : requests) {
    rows.push_back({request.get(), {request->length}, {request->token}});
  }
  return Run(rows, documents, {}, true);
}

absl::Status DevicePasses::Full(Request& request, int64_t tokens, int64_t chunk) {
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    Rows rows{&request, {}, {}};
    AddText(begin, std::min(chunk, tokens - begin), &rows);
    KVLINK_RETURN_IF_ERROR(Run({&rows, 1}, {}, {}, begin + chunk >= tokens));
  }
  return absl::OkStatus();
}

absl::Status DevicePasses::Encode(absl::Span<const std::unique_ptr<Request>> requests, int64_t tokens) {
  std::vector<Rows> rows;
  for (const std::unique_ptr<Request>& request : requests) {
    AddText(0, tokens, &rows.emplace_back(Rows{request.get(), {}, {}}));
  }
  return Run(rows, {}, {}, false);
}

// Lists segments once, however many requests read them: documents first, then private KV.
absl::Status DevicePasses::Run(absl::Span<const Rows> rows, absl::Span<const kernels::KvSegment> documents,
                               const BeforeLayer& before_layer, bool sample) {
  model::BatchArrays arrays;
  std::vector<int64_t> first;
  for (const Rows& mine : rows) {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int64_t> slots, mine.request->kv.Append(mine.positions));
    first.push_back(arrays.AddRows(mine.tokens, mine.positions, slots));
    if (sample) arrays.logits_rows.push_back(static_cast<int64_t>(arrays.tokens.size()) - 1);
    mine.request->length = mine.positions.back() + 1;
  }
  arrays.segments.assign(documents.begin(), documents.end());
  for (size_t document = 0; document < documents.size(); ++document) {
    for (size_t r = 0; r < rows.size(); ++r) {
      arrays.AddRead(static_cast<int32_t>(document), rows[r].positions, first[r], rows[r].request->offsets[document]);
    }
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    arrays.AddPrivate(rows[r].request->kv, first[r], static_cast<int64_t>(rows[r].positions.size()));
  }
  model::ForwardBatch batch = arrays.Batch(pages_.get());
  batch.before_layer = before_layer;
  if (!before_layer) batch.graph_rows = kGraphRows;
  KVLINK_ASSIGN_OR_RETURN(const kernels::Tensor logits, model_->Forward(*context_, batch));
  return sample ? Sample(rows, logits) : absl::OkStatus();
}

absl::Status DevicePasses::Sample(absl::Span<const Rows> rows, const kernels::Tensor& logits) {
  kernels::Backend& backend = *model_->backend();
  const auto count = static_cast<int64_t>(rows.size());
  const std::vector<kernels::SampleParams> greedy(rows.size());
  std::vector<int32_t> ids(rows.size());
  const kernels::Tensor out = kernels::Tensor::Dense(sampled_.data(), kernels::Dtype::kI32, backend.device(), {count});
  absl::Status status = backend.Sample(*stream_, {logits, greedy, out, {workspace_.data(), workspace_.bytes()}});
  status.Update(backend.CopyOut(*stream_, out.data, ids.data(), out.bytes));
  status.Update(stream_->Synchronize());
  for (size_t i = 0; i < ids.size(); ++i) rows[i].request->token = ids[i];
  return status;
}

}  // namespace kvlink::bench
