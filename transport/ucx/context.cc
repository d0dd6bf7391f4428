#include "transport/ucx/context.h"

#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "transport/ucx/ucx.h"

namespace kvlink::transport {

absl::Status UcxError(absl::string_view what, ucs_status_t status) {
  return absl::UnavailableError(absl::StrCat("ucx: ", what, ": ", ucs_status_string(status)));
}

ucs_memory_type_t MemoryTypeOf(const MemoryPlace& place) {
  return place.kind == MemoryKind::kHost ? UCS_MEMORY_TYPE_HOST : UCS_MEMORY_TYPE_CUDA;
}

namespace {

// UCX logs some messages for each failed attempt, a hundred thousand times a second when descriptors run out. For
// errors it survives, this many lines are enough.
constexpr int kLinesASecond = 10;
bool MayLog() {
  static std::atomic<int64_t> second{0};
  static std::atomic<int> lines{0};
  const int64_t now = absl::ToUnixSeconds(SteadyNow());
  if (second.exchange(now) != now) lines = 0;
  return lines.fetch_add(1) < kLinesASecond;
}

// UCX logs to standard output, which belongs to the program.
ucs_log_func_rc_t LogToStandardError(const char* file, unsigned line, const char* function, ucs_log_level_t level,
                                     const ucs_log_component_config_t* component, const char* format, va_list values) {
  if (level > component->log_level) return UCS_LOG_FUNC_RC_STOP;
  if (level != UCS_LOG_LEVEL_FATAL && !MayLog()) return UCS_LOG_FUNC_RC_STOP;
  char text[1024];
  vsnprintf(text, sizeof(text), format, values);
  std::fprintf(stderr, "ucx: %s: %s\n", ucs_log_level_names[level], text);
  return UCS_LOG_FUNC_RC_STOP;
}

// UCX 1.13 refuses connections beyond a number of watched descriptors, 1024 by default, and closes a refused
// connection's descriptor twice (tcp_listener.c); by the second time it may have been reused. With as many as the
// process can open, or far more than a node has peers, it never refuses any. Set here because the library has already
// read the environment.
void WatchAllDescriptors() {
  if (getenv("UCX_ASYNC_MAX_EVENTS") != nullptr) return;
  const auto enough = static_cast<unsigned>(std::min(DescriptorLimit(), int64_t{1} << 16));
  ucs_global_opts.async_max_events = std::max(ucs_global_opts.async_max_events, enough);
}

void Prefer(ucp_config_t* config, const std::string& name, const std::string& value) {
  if (getenv(("UCX_" + name).c_str()) == nullptr) ucp_config_modify(config, name.c_str(), value.c_str());
}

}  // namespace

absl::StatusOr<std::shared_ptr<UcxContext>> UcxContext::Create(const std::string& device) {
  // UCX's library installs signal handlers when it is loaded; signals are the process's to handle.
  static std::once_flag once;
  std::call_once(once, [] {
    ucs_log_push_handler(LogToStandardError);
    WatchAllDescriptors();
    const auto& caught = ucs_global_opts.error_signals;
    for (unsigned i = 0; i < caught.count; ++i) ucs_debug_disable_signal(caught.signals[i]);
    // Lets a restarted node listen on its port at once, even if old connections linger. UCX reads this from the
    // environment only.
    setenv("UCX_TCP_CM_REUSEADDR", "y", 0);
    // UCX 1.13 aborts the process on an assertion (tcp_ep.c, PUT_TX_WAITING_ACK) if a connection is cut while its TCP
    // writes directly into a peer's memory. Without direct writes, payloads arrive in pieces of the sizes below: large
    // enough to amortise system calls and small enough for the receiver's cache. A process holds one piece for each
    // connection that is in the middle of one.
    setenv("UCX_TCP_PUT_ENABLE", "n", 0);
    setenv("UCX_TCP_RX_SEG_SIZE", "512k", 0);
    setenv("UCX_TCP_TX_SEG_SIZE", "512k", 0);
  });
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return UcxError("reading its configuration", status);
  if (!device.empty()) Prefer(config, "NET_DEVICES", device);
  // TCP must not send directly from the payload either: if such a send finds the peer gone, it is completed twice, on
  // which UCX aborts the process (tcp_ep.c, uct_tcp_ep_sendv; still so in 2026). This setting makes it send from a
  // buffer of its own, and does not affect RDMA rendezvous.
  Prefer(config, "ZCOPY_THRESH", "inf");
  // port_guard.cc expects this version in a peer's first message.
  ucp_config_modify(config, "SA_DATA_VERSION", "v1");
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 1;  // buffers are registered and released on other threads than the worker's
  params.name = "kvlink";
  ucp_context_h context = nullptr;
  status = ucp_init(&params, config, &context);
  ucp_config_release(config);
  if (status != UCS_OK) return UcxError("starting", status);
  return std::shared_ptr<UcxContext>(new UcxContext(context));
}

namespace {

// The library has no other list of what a context uses.
std::string InformationOf(ucp_context_h context) {
  char* text = nullptr;
  size_t bytes = 0;
  std::FILE* const file = open_memstream(&text, &bytes);
  if (file == nullptr) return "";
  ucp_context_print_info(context, file);
  std::fclose(file);
  std::string information(text, bytes);
  std::free(text);
  return information;
}

}  // namespace

absl::StatusOr<UcxDescription> DescribeUcx() {
  KVLINK_ASSIGN_OR_RETURN(const std::shared_ptr<UcxContext> context, UcxContext::Create());
  UcxDescription description;
  description.version = ucp_get_version_string();
  for (const absl::string_view line : absl::StrSplit(InformationOf(context->get()), '\n')) {
    // "#      resource 0  :  md 0  dev 0  flags -- tcp/eth0"
    if (!absl::StrContains(line, " resource ")) continue;
    const absl::string_view words = absl::StripTrailingAsciiWhitespace(line);
    description.resources.emplace_back(words.substr(words.find_last_of(' ') + 1));
  }
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  ucp_context_query(context->get(), &attributes);
  description.reaches_cuda = (attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
  return description;
}

absl::StatusOr<std::shared_ptr<UcxBuffer>> UcxBuffer::Register(std::shared_ptr<UcxContext> context,
                                                               std::shared_ptr<Counters> counters, std::byte* data,
                                                               int64_t bytes, const MemoryPlace& place,
                                                               std::shared_ptr<void> owner) {
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  ucp_context_query(context->get(), &attributes);
  const ucs_memory_type_t type = MemoryTypeOf(place);
  if ((attributes.memory_types & UCS_BIT(type)) == 0) {
    return absl::UnimplementedError(
        absl::StrCat("UCX on this machine cannot reach ", ucs_memory_type_names[type], " memory"));
  }
  ucp_mem_map_params_t params = {};
  params.field_mask =
      UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = data;
  params.length = static_cast<size_t>(bytes);
  params.memory_type = type;
  ucp_mem_h handle = nullptr;
  const ucs_status_t status = ucp_mem_map(context->get(), &params, &handle);
  if (status != UCS_OK) {
    return absl::ResourceExhaustedError(absl::StrCat("ucx: registering ", bytes, " bytes: ", ucs_status_string(status),
                                                     "; check the limit on locked memory (ulimit -l)"));
  }
  return std::shared_ptr<UcxBuffer>(
      new UcxBuffer(std::move(context), std::move(counters), handle, data, bytes, place, std::move(owner)));
}

UcxBuffer::UcxBuffer(std::shared_ptr<UcxContext> context, std::shared_ptr<Counters> counters, ucp_mem_h handle,
                     std::byte* data, int64_t bytes, const MemoryPlace& place, std::shared_ptr<void> owner)
    : RegisteredBuffer(data, bytes, place),
      owner_(std::move(owner)),
      context_(std::move(context)),
      counters_(std::move(counters)),
      handle_(handle) {
  counters_->registered_bytes += bytes;
}

UcxBuffer::~UcxBuffer() {
  ucp_mem_unmap(context_->get(), handle_);
  counters_->registered_bytes -= size();
}

}  // namespace kvlink::transport
