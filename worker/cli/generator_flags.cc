#include "worker/cli/generator_flags.h"

#include "base/status.h"

namespace kvlink::cli {

void AddDeviceFlags(Arguments& arguments, DeviceFlags& flags) {
  arguments.Bytes("device-memory",
                  "With --device cuda: device memory for encodings. It must hold all encodings of one request.",
                  &flags.memory);
  arguments.Bytes("host-memory",
                  "With --device cuda: host memory for copies of encodings, from which evicted encodings return to the "
                  "device; 0: none.",
                  &flags.host_memory);
  arguments.Bytes("device-buffer",
                  "With --device cuda and a node read over UCX: device memory, in addition to --device-memory, that "
                  "receives encodings straight from the network if UCX can reach it. Encodings that do not fit come "
                  "through the host; 0: all do.",
                  &flags.buffer);
}

absl::Status CheckDeviceFlags(const Arguments& arguments, const ModelFlags& model, const DeviceFlags& flags) {
  if (model.device != "cpu") return absl::OkStatus();
  if (flags.host_memory > 0) return absl::InvalidArgumentError("--host-memory requires --device cuda");
  if (arguments.given("device-buffer")) return absl::InvalidArgumentError("--device-buffer requires --device cuda");
  return absl::OkStatus();
}

absl::StatusOr<infer::GeneratorOptions> GeneratorOptionsOf(const OpenedModel& opened, const StoreFlags& store,
                                                           const ModelFlags& model, const DeviceFlags& device,
                                                           const std::string& tenant_secret) {
  infer::GeneratorOptions options;
  options.ns = store.ns;
  KVLINK_ASSIGN_OR_RETURN(options.codec, ParseCodec(store.codec));
  options.tenant_secret = tenant_secret;
  options.profile = opened.profile;
  options.wrapper = opened.wrapper;
  options.resident_budget_bytes = model.device == "cpu" ? store.memory / 2 : device.memory;
  options.host_bytes = device.host_memory;
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(store));
  if (model.device != "cpu" && kind != PlaceKind::kDirectory) options.device_buffer_bytes = device.buffer;
  return options;
}

}  // namespace kvlink::cli
