// Host memory for transports: mapped here, or owned by the caller. Thread-safety: as RegisteredBuffer.
#ifndef KVLINK_TRANSPORT_HOST_MEMORY_H_
#define KVLINK_TRANSPORT_HOST_MEMORY_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "transport/counters.h"
#include "transport/transport.h"

namespace kvlink::transport {

// A mapping of its own, prefaulted: first-touching memory that a hypervisor has reclaimed is many times slower than the
// network.
class HostMemory {
 public:
  // Rounds `bytes` up to whole pages. INVALID_ARGUMENT, RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<HostMemory>> Map(int64_t bytes);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  HostMemory(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* const data_;
  const int64_t bytes_;
};

// Host memory of a transport that needs no registration with a library.
class HostBuffer : public RegisteredBuffer {
 public:
  // As Transport::Allocate and Transport::Register. `counters` are the registering transport's.
  static absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes, std::shared_ptr<Counters> counters);
  static absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                    const MemoryPlace& place,
                                                                    std::shared_ptr<void> owner,
                                                                    std::shared_ptr<Counters> counters);
  ~HostBuffer() override { counters_->registered_bytes -= size(); }
  const Counters* counters() const { return counters_.get(); }

 private:
  HostBuffer(std::byte* data, int64_t bytes, std::shared_ptr<void> owner, std::shared_ptr<Counters> counters)
      : RegisteredBuffer(data, bytes, {}), owner_(std::move(owner)), counters_(std::move(counters)) {
    counters_->registered_bytes += bytes;
  }
  const std::shared_ptr<void> owner_;
  const std::shared_ptr<Counters> counters_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_HOST_MEMORY_H_
