// The measurements of bench_device: a model's passes over documents on one backend, beside the device's ceilings. The
// sections are functions of their own, so that tests run them on an emulated device.
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

// By default the shapes that the targets are for.
struct DeviceBenchOptions {
  model::ModelConfig config = Llama8b();
  int rounds = 5;
  // Whether figures have targets: they are those of the whole shape on a device.
  bool targets = true;
  // Of "attention", "decode", "encode", "ttft", "sharing"; empty: all.
  std::vector<std::string> sections;
  DeviceCeilings::Sizes ceilings;
  int64_t document_tokens = 512;
  int64_t documents = 10;     // of a request, where contexts do not say
  int64_t fresh_tokens = 64;  // of a request
  // attention
  int64_t decoding_requests = 32;
  // decode
  int64_t decoded_tokens = 65536;
  // encode
  int64_t encoded_documents = 16;
  // ttft
  std::vector<int64_t> contexts = {1024, 2048, 5120, 16384, 32768, 65536};
  int64_t long_context = 32768;  // contexts from here on have long documents
  int64_t long_document_tokens = 2048;
  int64_t prefill_chunk = 4096;  // rows of a pass
  // sharing
  std::vector<int64_t> concurrent = {1, 8, 64};
  int64_t answer_tokens = 32;
  // Bytes of the device that are in use, for whatever; empty: the documents' own buffers are counted.
  std::function<absl::StatusOr<int64_t>()> memory_in_use;
};
// The same of a toy, for tests: no figure means anything.
DeviceBenchOptions SmallDeviceBench();

// INVALID_ARGUMENT for sizes that do not fit together; what the backend returns.
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

// Decoding over documents that requests have to themselves, and over shared ones.
absl::Status BenchAttention(DeviceBench& bench);
// Slabs of each codec as attention reads them.
absl::Status BenchDecode(DeviceBench& bench);
absl::Status BenchEncode(DeviceBench& bench, const model::Model& model);
// Time to first token by context, with documents resident or loaded from host memory.
absl::Status BenchFirstToken(DeviceBench& bench, const model::Model& model);
// Concurrent requests over the same documents.
absl::Status BenchSharing(DeviceBench& bench, const model::Model& model);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_DEVICE_BENCH_H_
