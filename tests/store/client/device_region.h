// A device that, to the network, has host memory: a transport that reaches it, and a region of it.
#ifndef KVLINK_TESTS_STORE_CLIENT_DEVICE_REGION_H_
#define KVLINK_TESTS_STORE_CLIENT_DEVICE_REGION_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "proto/digest.h"
#include "store/client/remote.h"
#include "tests/store/client/forwarding_transport.h"
#include "tests/store/synthetic.h"
#include "tests/transport/peers.h"

namespace kvlink::testing {

// Treats a device's memory as the host's.
class ReachesDevices : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                        const transport::MemoryPlace&,
                                                                        std::shared_ptr<void> owner) override {
    return ForwardingTransport::Register(data, bytes, {}, std::move(owner));
  }
};

// Lets a client reach devices over its transport, or over UCX's tcp.
inline void ReachDevices(store::client::RemoteOptions* client) {
  if (client->transport == nullptr) client->transport = NewTransport(Carrier::kUcx);
  client->transport = std::make_shared<ReachesDevices>(client->transport);
}

// A region of host memory. Its checksums fail on demand.
class TestRegion {
 public:
  explicit TestRegion(int64_t bytes) : memory_(std::make_shared<Memory>(bytes, SlabAllocator<std::byte>(true))) {}
  store::DeviceRegion Describe() {
    store::DeviceRegion region;
    region.data = memory_->data();
    region.bytes = static_cast<int64_t>(memory_->size());
    region.owner = memory_;
    region.checksums = [this](auto offsets, auto lengths, auto out) {
      if (fails) return absl::InternalError("the device failed");
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = Checksum64({memory_->data() + offsets[i], static_cast<size_t>(lengths[i])});
      }
      checked += static_cast<int64_t>(out.size());
      return absl::OkStatus();
    };
    return region;
  }
  bool Holds(absl::Span<const std::byte> bytes) const {
    return bytes.data() >= memory_->data() && bytes.data() + bytes.size() <= memory_->data() + memory_->size();
  }
  // Whether something other than the test refers to the memory.
  bool kept() const { return memory_.use_count() > 1; }

  std::atomic<bool> fails = false;
  std::atomic<int64_t> checked = 0;  // ranges

 private:
  using Memory = std::vector<std::byte, SlabAllocator<std::byte>>;
  const std::shared_ptr<Memory> memory_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_DEVICE_REGION_H_
