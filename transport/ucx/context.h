// The UCX context and memory registered with it. Thread-safety: all methods. A buffer keeps its context alive.
#ifndef KVLINK_TRANSPORT_UCX_CONTEXT_H_
#define KVLINK_TRANSPORT_UCX_CONTEXT_H_

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/counters.h"
#include "transport/transport.h"

namespace kvlink::transport {

// Returns UNAVAILABLE: "ucx: <what>: <UCX's message>".
absl::Status UcxError(absl::string_view what, ucs_status_t status);

// UCX's memory type for a place.
ucs_memory_type_t MemoryTypeOf(const MemoryPlace& place);

class UcxContext {
 public:
  // `device`: the only network device to use; empty: all. Environment variables override what is set here.
  static absl::StatusOr<std::shared_ptr<UcxContext>> Create(const std::string& device = "");
  ~UcxContext() { ucp_cleanup(context_); }
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;
  ucp_context_h get() const { return context_; }

 private:
  explicit UcxContext(ucp_context_h context) : context_(context) {}
  const ucp_context_h context_;
};

class UcxBuffer : public RegisteredBuffer {
 public:
  // As Transport::Register: UNIMPLEMENTED, RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::shared_ptr<UcxBuffer>> Register(std::shared_ptr<UcxContext> context,
                                                             std::shared_ptr<Counters> counters, std::byte* data,
                                                             int64_t bytes, const MemoryPlace& place,
                                                             std::shared_ptr<void> owner);
  ~UcxBuffer() override;
  const UcxContext* context() const { return context_.get(); }

 private:
  UcxBuffer(std::shared_ptr<UcxContext> context, std::shared_ptr<Counters> counters, ucp_mem_h handle, std::byte* data,
            int64_t bytes, const MemoryPlace& place, std::shared_ptr<void> owner);
  const std::shared_ptr<void> owner_;
  const std::shared_ptr<UcxContext> context_;
  const std::shared_ptr<Counters> counters_;
  const ucp_mem_h handle_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_CONTEXT_H_
