#include "store/client/data/transport_memory.h"

#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::client {

TransportMemory::TransportMemory(std::shared_ptr<transport::Transport> transport, const ResourceOptions& options,
                                 Timer* timer)
    : transport_(std::move(transport)),
      idle_(options.idle_memory),
      receive_memory_(
          std::make_shared<Arena>(transport_.get(), options.receive_bytes, "receive memory", [this] { Grown(); })),
      sending_(std::make_shared<Arena>(transport_.get(), options.sending_bytes, "sending memory", [this] { Grown(); })),
      trim_(timer, [this] { return Trim(); }) {}

void TransportMemory::Grown() {
  if (!watched_.exchange(true)) trim_.Set(SteadyNow() + idle_ / 2);
}

// Checks periodically: memory may be in use for hours, and taking and returning ranges does not notify the timer.
absl::Time TransportMemory::Trim() {
  watched_ = false;
  const absl::Time now = SteadyNow();
  for (Arena* const arena : {receive_memory_.get(), sending_.get()}) arena->Trim(now - idle_);
  if (receive_memory_->bytes() == 0 && sending_->bytes() == 0) return absl::InfiniteFuture();
  watched_ = true;
  return now + idle_ / 2;
}

absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> TransportMemory::AllocateSlabs(int64_t bytes) {
  KVLINK_ASSIGN_OR_RETURN(auto buffer, transport_->Allocate(bytes));
  MutexLock lock(&mutex_);
  slabs_.remove_if([](const auto& one) { return one.expired(); });
  slabs_.push_back(buffer);
  return buffer;
}

std::optional<transport::Slice> TransportMemory::Registered(absl::Span<const std::byte> slab) {
  MutexLock lock(&mutex_);
  for (const auto& one : slabs_) {
    auto buffer = one.lock();
    if (buffer == nullptr) continue;
    const int64_t offset = slab.data() - buffer->data(), length = static_cast<int64_t>(slab.size());
    if (offset >= 0 && offset + length <= buffer->size()) return transport::Slice{std::move(buffer), offset, length};
  }
  return std::nullopt;
}

}  // namespace kvlink::store::client
