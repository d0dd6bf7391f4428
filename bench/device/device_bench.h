// The measurements of bench_device: a model's passes over documents on one backend, compared with the device's
// ceilings. Sections are separate functions, so that tests can run them on an emulated device.
#ifndef KVLINK_BENCH_DEVICE_DEVICE_BENCH_H_
#define KVLINK_BENCH_DEVICE_DEVICE_BENCH_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/bench_common.h"
#include "bench/device/device_ceilings.h"
#include "bench/device/random_model.h"
#include "kernels/kernels.h"
#include "worker/files/config.h"
#include "worker/model/model.h"

namespace kvlink::bench {

// Defaults are the shapes that the targets apply to.
struct DeviceBenchOptions {
  model::ModelConfig config = Llama8b();
  int rounds = 5;
  // Whether figures have targets, which apply to the full shape on a device.
  bool targets = true;
  // A subset of "attention", "decode", "encode", "ttft", "sharing"; empty: all.
  std::vector<std::string> sections;
  DeviceCeilings::Sizes ceilings;
  int64_t document_tokens = 512;
  int64_t documents = 10;     // per request, unless the context decides
  int64_t fresh_tokens = 64;  // per request
  // attention
  int64_t decoding_requests = 32;
  // decode
  int64_t decoded_tokens = 65536;
  // encode
  int64_t encoded_documents = 16;
  // ttft
  std::vector<int64_t> contexts = {1024, 2048, 5120, 16384, 32768, 65536};
  int64_t long_context = 32768;  // from this context on, documents are long
  int64_t long_document_tokens = 2048;
  int64_t prefill_chunk = 4096;  // rows per pass
  // sharing
  std::vector<int64_t> concurrent = {1, 8, 64};
  int64_t answer_tokens = 32;
  // Returns the bytes of device memory in use for any purpose; empty: only the documents' own buffers are counted.
  std::function<absl::StatusOr<int64_t>()> memory_in_use;
};
// The same for a toy model, for tests: its figures are meaningless.
DeviceBenchOptions SmallDeviceBench();

// INVALID_ARGUMENT for inconsistent sizes; errors of the backend.
absl::Status RunDeviceBench(kernels::Backend* backend, const DeviceBenchOptions& options, Report* report);

// Shared by the sections.
struct DeviceBench {
  kernels::Backend* backend = nullptr;
  const DeviceBenchOptions* options = nullptr;
  Report* report = nullptr;
  DeviceCeilings* ceilings = nullptr;

  const DeviceRates& rates() const { return ceilings->rates(); }
  void Add(absl::string_view name, double value, absl::string_view unit, std::optional<Target> target = std::nullopt) {
    report->Add(name, value, unit, options->targets ? target : std::nullopt);
  }
};

// Decode steps over documents of one request each, and over shared ones.
absl::Status BenchAttention(DeviceBench& bench);
// Converts slabs of each codec to the form that attention reads.
absl::Status BenchDecode(DeviceBench& bench);
absl::Status BenchEncode(DeviceBench& bench, const model::Model& model);
// Time to first token by context, with documents resident or loaded from host memory.
absl::Status BenchFirstToken(DeviceBench& bench, const model::Model& model);
// Concurrent requests over the same documents.
absl::Status BenchSharing(DeviceBench& bench, const model::Model& model);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_DEVICE_BENCH_H_
