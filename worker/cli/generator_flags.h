// The options of commands that answer: memory of a device, and what a generator is made from.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_CLI_GENERATOR_FLAGS_H_
#define KVLINK_WORKER_CLI_GENERATOR_FLAGS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cli/args.h"
#include "store/cli/place.h"
#include "worker/cli/open.h"
#include "worker/infer/generator.h"

namespace kvlink::cli {

struct DeviceFlags {
  int64_t memory = int64_t{4} << 30;    // bytes of device memory for encodings
  int64_t host_memory = 0;              // bytes of host memory for copies of encodings beside a device; 0: none
  int64_t buffer = int64_t{512} << 20;  // bytes of device memory in which encodings arrive from a node; 0: none
};

// --device-memory, --host-memory, --device-buffer.
void AddDeviceFlags(Arguments& arguments, DeviceFlags& flags);
// INVALID_ARGUMENT: one of them without a device.
absl::Status CheckDeviceFlags(const Arguments& arguments, const ModelFlags& model, const DeviceFlags& flags);

// The options of a generator of this model over this store, with private KV for a whole context.
absl::StatusOr<infer::GeneratorOptions> GeneratorOptionsOf(const OpenedModel& opened, const StoreFlags& store,
                                                           const ModelFlags& model, const DeviceFlags& device,
                                                           const std::string& tenant_secret);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_GENERATOR_FLAGS_H_
