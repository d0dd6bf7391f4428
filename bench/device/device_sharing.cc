// Concurrent requests over the same documents: their memory cost and their throughput.
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/device/device_bench.h"
#include "bench/device/device_documents.h"
#include "bench/device/device_passes.h"

namespace kvlink::bench {
namespace {

class Sharing {
 public:
  // One value per round; of the bytes, the largest.
  struct Times {
    std::vector<double> seconds, steps;
    int64_t document_bytes = 0;
  };

  static absl::StatusOr<std::unique_ptr<Sharing>> Create(DeviceBench& bench, const model::Model& model) {
    const DeviceBenchOptions& options = *bench.options;
    std::unique_ptr<Sharing> sharing(new Sharing(bench, model));
    const int64_t most = *std::max_element(options.concurrent.begin(), options.concurrent.end());
    KVLINK_ASSIGN_OR_RETURN(sharing->passes_,
                            DevicePasses::Create(&model, most * (options.fresh_tokens + options.answer_tokens), most));
    KVLINK_ASSIGN_OR_RETURN(const auto maker, SlabMaker::Create(bench.backend, model.config(), &model.rope()));
    KVLINK_ASSIGN_OR_RETURN(sharing->host_, HostDocuments::Make(bench.backend, *maker,
                                                                maker->Shape(Codec::kRawBf16, options.document_tokens),
                                                                model.config().layers, options.documents));
    // Allocates all scratch memory, so that later only documents take any.
    Times unused;
    KVLINK_RETURN_IF_ERROR(sharing->Round(most, &unused));
    return sharing;
  }

  // Requests start with nothing resident; each decodes documents that no request before it has decoded.
  absl::Status Round(int64_t count, Times* times);

 private:
  Sharing(DeviceBench& bench, const model::Model& model) : bench_(bench), decoder_(bench.backend, &model.rope()) {}
  absl::Status Answer(int64_t count, const DeviceDocuments& documents, Times* times);
  absl::StatusOr<int64_t> InUse(const std::vector<kernels::Buffer>& rooms) const {
    if (bench_.options->memory_in_use) return bench_.options->memory_in_use();
    int64_t bytes = 0;
    for (const kernels::Buffer& room : rooms) bytes += room.bytes();
    return bytes;
  }

  DeviceBench& bench_;
  kernels::SlabDecoder decoder_;
  std::unique_ptr<DevicePasses> passes_;
  std::unique_ptr<HostDocuments> host_;
};

absl::Status Sharing::Round(int64_t count, Times* times) {
  const int64_t documents = bench_.options->documents;
  std::vector<kernels::Buffer> rooms(static_cast<size_t>(documents));
  std::vector<std::byte*> data(rooms.size(), nullptr);
  KVLINK_ASSIGN_OR_RETURN(const int64_t before, InUse(rooms));
  for (int64_t i = 0; i < count * documents; ++i) {
    const auto document = static_cast<size_t>(i % documents);
    if (data[document] != nullptr) continue;
    KVLINK_ASSIGN_OR_RETURN(rooms[document], bench_.backend->Allocate(host_->decoded_bytes()));
    data[document] = static_cast<std::byte*>(rooms[document].data());
  }
  DeviceDocuments resident(host_.get(), &decoder_, data);
  for (int64_t layer = 0; layer < resident.layers(); ++layer) {
    for (int64_t document = 0; document < documents; ++document) {
      KVLINK_RETURN_IF_ERROR(resident.Decode(document, layer));
    }
  }
  KVLINK_RETURN_IF_ERROR(Answer(count, resident, times));
  KVLINK_ASSIGN_OR_RETURN(const int64_t after, InUse(rooms));
  times->document_bytes = std::max(times->document_bytes, after - before);
  return absl::OkStatus();
}

absl::Status Sharing::Answer(int64_t count, const DeviceDocuments& documents, Times* times) {
  const DeviceBenchOptions& options = *bench_.options;
  std::vector<std::unique_ptr<DevicePasses::Request>> requests;
  const double start = Now();
  for (int64_t i = 0; i < count; ++i) requests.push_back(passes_->NewRequest());
  KVLINK_RETURN_IF_ERROR(passes_->First(requests, documents.segments(), options.fresh_tokens, {}));
  const double first = Now();
  for (int64_t i = 1; i < options.answer_tokens; ++i) {
    KVLINK_RETURN_IF_ERROR(passes_->Step(requests, documents.segments()));
  }
  times->seconds.push_back(Now() - start);
  times->steps.push_back((Now() - first) / static_cast<double>(std::max<int64_t>(1, options.answer_tokens - 1)));
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchSharing(DeviceBench& bench, const model::Model& model) {
  const DeviceBenchOptions& options = *bench.options;
  bench.report->Section(absl::StrCat("Concurrent requests over the same ", options.documents, " documents of ",
                                     options.document_tokens, " tokens: ", options.fresh_tokens, " fresh, ",
                                     options.answer_tokens, " answered"));
  KVLINK_ASSIGN_OR_RETURN(const auto sharing, Sharing::Create(bench, model));
  double alone = 0;  // bytes of the first request's documents
  for (int64_t count : options.concurrent) {
    Sharing::Times times;
    for (int round = 0; round < options.rounds; ++round) KVLINK_RETURN_IF_ERROR(sharing->Round(count, &times));
    const auto bytes = static_cast<double>(times.document_bytes), requests = static_cast<double>(count);
    const std::string name = absl::StrCat("N = ", count);
    bench.Add(absl::StrCat(name, ", requests"), requests / Median(times.seconds), "requests/s");
    bench.Add(absl::StrCat(name, ", decoding"), requests / Median(times.steps), "tokens/s");
    bench.Add(absl::StrCat(name, ", device memory of documents"), bytes / (1 << 20), "MiB");
    if (alone == 0) {
      alone = bytes;
      continue;
    }
    bench.Add(absl::StrCat(name, ", device memory of documents, growth"), bytes / alone, "x",
              Target{1.01, /*at_most=*/true});
  }
  return absl::OkStatus();
}

}  // namespace kvlink::bench
