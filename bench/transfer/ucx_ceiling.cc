// One thread polls on each side, with as much in flight as the store has.
#include "bench/transfer/ucx_ceiling.h"

#include <arpa/inet.h>
#include <poll.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status.h"
#include "bench/bench_common.h"

namespace kvlink::bench {
namespace {

constexpr unsigned kAsk = 0, kSlab = 1;  // active messages
constexpr int64_t kInFlight = int64_t{4} << 20;
constexpr double kIdle = 0.001;  // seconds of polling without an event before the server waits

struct Ask {
  int64_t at, layers, slab_bytes;
};

absl::Status Error(absl::string_view what, ucs_status_t status) {
  return absl::UnavailableError(absl::StrCat("bare ucx: ", what, ": ", ucs_status_string(status)));
}

// A context, a worker and a registered ring.
class Side {
 public:
  explicit Side(int64_t ring_bytes) : ring_(ring_bytes) {}
  virtual ~Side() {
    if (endpoint_ != nullptr) ucp_ep_destroy(endpoint_);
    if (worker_ != nullptr) ucp_worker_destroy(worker_);
    if (memory_ != nullptr) ucp_mem_unmap(context_, memory_);
    if (context_ != nullptr) ucp_cleanup(context_);
  }
  absl::Status Open() {
    ucp_params_t params = {};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    ucs_status_t status = ucp_init(&params, nullptr, &context_);
    if (status != UCS_OK) return Error("starting", status);
    ucp_worker_params_t worker = {};
    worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker.thread_mode = UCS_THREAD_MODE_SINGLE;
    status = ucp_worker_create(context_, &worker, &worker_);
    if (status != UCS_OK) return Error("a worker", status);
    ucp_mem_map_params_t map = {};
    map.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
    map.address = ring_.as<void>();
    map.length = static_cast<size_t>(ring_.bytes());
    status = ucp_mem_map(context_, &map, &memory_);
    return status == UCS_OK ? absl::OkStatus() : Error("registering the ring", status);
  }

 protected:
  absl::Status Handle(unsigned id, ucp_am_recv_callback_t callback) {
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = id;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = callback;
    handler.arg = this;
    const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &handler);
    return status == UCS_OK ? absl::OkStatus() : Error("a handler", status);
  }
  absl::Status Connect(ucp_ep_params_t params) {
    // As a server must, which wants to know of peers that die; it also keeps UCX to tcp.
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};
    const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint_);
    return status == UCS_OK ? absl::OkStatus() : Error("connecting", status);
  }
  std::byte* ring() const { return ring_.as<std::byte>(); }
  int64_t ring_bytes() const { return ring_.bytes(); }
  ucp_worker_h worker() const { return worker_; }
  ucp_ep_h endpoint() const { return endpoint_; }

 private:
  Memory ring_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_mem_h memory_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
};

ucp_request_param_t HostMemoryParams() {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  return params;
}

class Server : public Side {
 public:
  using Side::Side;
  absl::Status Listen(int* port) {
    KVLINK_RETURN_IF_ERROR(Open());
    FillRing(ring(), ring_bytes());
    KVLINK_RETURN_IF_ERROR(Handle(kAsk, OnAsk));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ucp_listener_params_t params = {};
    params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
    params.sockaddr = {reinterpret_cast<sockaddr*>(&address), sizeof(address)};
    params.conn_handler.cb = [](ucp_conn_request_h request, void* self) {
      static_cast<Server*>(self)->request_ = request;
    };
    params.conn_handler.arg = this;
    ucs_status_t status = ucp_listener_create(worker(), &params, &listener_);
    if (status != UCS_OK) return Error("listening", status);
    ucp_listener_attr_t attributes = {};
    attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    ucp_listener_query(listener_, &attributes);
    *port = ntohs(reinterpret_cast<sockaddr_in*>(&attributes.sockaddr)->sin_port);
    return absl::OkStatus();
  }
  [[noreturn]] void Serve() {
    int fd = -1;
    ucp_worker_get_efd(worker(), &fd);
    double last = Now();
    for (;;) {
      bool any = false;
      for (int i = 0; i < 64 && ucp_worker_progress(worker()) != 0; ++i) any = true;
      if (request_ != nullptr) {
        ucp_ep_params_t params = {};
        params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
        params.conn_request = std::exchange(request_, nullptr);
        if (!Connect(params).ok()) std::exit(1);
        any = true;
      }
      if (asked_.layers > 0) {
        Send();
        any = true;
      }
      if (any) last = Now();
      if (Now() - last < kIdle || ucp_worker_arm(worker()) != UCS_OK) continue;
      pollfd wait = {fd, POLLIN, 0};
      poll(&wait, 1, -1);
      last = Now();
    }
  }

 private:
  static ucs_status_t OnAsk(void* self, const void*, size_t, void* data, size_t length, const ucp_am_recv_param_t*) {
    if (length == sizeof(Ask)) std::memcpy(&static_cast<Server*>(self)->asked_, data, sizeof(Ask));
    return UCS_OK;
  }
  // As much at a time as keeps the network busy; more is not faster, and makes the first late.
  void Send() {
    const int64_t depth = std::max<int64_t>(2, kInFlight / asked_.slab_bytes);
    for (; sent_ < asked_.layers && in_flight_ < depth; ++sent_) {
      auto* const header = new Header{this, sent_};
      ucp_request_param_t params = HostMemoryParams();
      params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
      params.flags = UCP_AM_SEND_FLAG_RNDV;
      params.user_data = header;
      params.cb.send = [](void* request, ucs_status_t, void* sent) {
        ucp_request_free(request);
        Sent(static_cast<Header*>(sent));
      };
      ++in_flight_;
      const ucs_status_ptr_t answer = ucp_am_send_nbx(endpoint(), kSlab, &header->index, sizeof(header->index),
                                                      ring() + asked_.at + sent_ * asked_.slab_bytes,
                                                      static_cast<size_t>(asked_.slab_bytes), &params);
      if (UCS_PTR_IS_ERR(answer)) std::exit(1);
      if (!UCS_PTR_IS_PTR(answer)) Sent(header);
    }
    if (sent_ < asked_.layers) return;
    asked_ = {};  // at once: the next may come while the last is on its way
    sent_ = 0;
  }
  struct Header {
    Server* server;
    int64_t index;
  };
  static void Sent(Header* header) {
    --header->server->in_flight_;
    delete header;
  }

  int64_t sent_ = 0, in_flight_ = 0;

  ucp_listener_h listener_ = nullptr;
  ucp_conn_request_h request_ = nullptr;
  Ask asked_ = {};
};

class Client : public Side, public Mover {
 public:
  Client(int64_t ring_bytes, std::string name) : Side(ring_bytes), name_(std::move(name)), place_(ring_bytes) {}
  absl::Status Dial(const std::string& port) {
    KVLINK_RETURN_IF_ERROR(Open());
    KVLINK_RETURN_IF_ERROR(Handle(kSlab, OnSlab));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    uint32_t number = 0;
    if (!absl::SimpleAtoi(port, &number)) return absl::UnavailableError(absl::StrCat("no port: ", port));
    address.sin_port = htons(static_cast<uint16_t>(number));
    ucp_ep_params_t params = {};
    params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
    params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    params.sockaddr = {reinterpret_cast<sockaddr*>(&address), sizeof(address)};
    return Connect(params);
  }
  std::string name() const override { return name_; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    ask_ = {place_.Next(shape.bytes()), shape.slabs(), shape.slab_bytes};
    left_ = shape.slabs();
    const double start = Now();
    first_ = 0;
    ucp_request_param_t params = {};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
    const ucs_status_ptr_t answer = ucp_am_send_nbx(endpoint(), kAsk, nullptr, 0, &ask_, sizeof(ask_), &params);
    if (UCS_PTR_IS_ERR(answer)) return Error("asking", UCS_PTR_STATUS(answer));
    while (left_ > 0) {
      ucp_worker_progress(worker());
      if (failed_ != UCS_OK) return Error("receiving", failed_);
      if (Now() - start > 30) return absl::UnavailableError("bare ucx: the slabs do not come");
    }
    if (UCS_PTR_IS_PTR(answer)) ucp_request_free(answer);
    return MoveTime{first_ - start, Now() - start};
  }

 private:
  static ucs_status_t OnSlab(void* arg, const void* header, size_t, void* data, size_t length,
                             const ucp_am_recv_param_t*) {
    auto* const self = static_cast<Client*>(arg);
    int64_t index = 0;
    std::memcpy(&index, header, sizeof(index));
    ucp_request_param_t params = HostMemoryParams();
    params.user_data = self;
    params.cb.recv_am = index == 0 ? OnFirst : OnReceived;
    const ucs_status_ptr_t answer = ucp_am_recv_data_nbx(
        self->worker(), data, self->ring() + self->ask_.at + index * self->ask_.slab_bytes, length, &params);
    if (answer == nullptr) self->Received(index == 0);
    if (UCS_PTR_IS_ERR(answer)) self->failed_ = UCS_PTR_STATUS(answer);
    return UCS_INPROGRESS;
  }
  static void OnFirst(void* request, ucs_status_t status, size_t, void* self) {
    Ended(static_cast<Client*>(self), request, status, true);
  }
  static void OnReceived(void* request, ucs_status_t status, size_t, void* self) {
    Ended(static_cast<Client*>(self), request, status, false);
  }
  static void Ended(Client* self, void* request, ucs_status_t status, bool first) {
    ucp_request_free(request);
    if (status != UCS_OK) self->failed_ = status;
    self->Received(first);
  }
  void Received(bool first) {
    if (first) first_ = Now();
    --left_;
  }

  const std::string name_;
  RingPlace place_;
  Ask ask_ = {};
  int64_t left_ = 0;
  double first_ = 0;
  ucs_status_t failed_ = UCS_OK;
};

}  // namespace

void ServeUcxCeiling(int64_t ring_bytes) {
  Server server(ring_bytes);
  int port = 0;
  const absl::Status status = server.Listen(&port);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }
  std::printf("%d\n", port);
  std::fflush(stdout);
  server.Serve();
}

absl::StatusOr<std::unique_ptr<Mover>> NewUcxCeiling(const std::string& name, const std::string& port,
                                                     int64_t ring_bytes) {
  auto client = std::make_unique<Client>(ring_bytes, name);
  KVLINK_RETURN_IF_ERROR(client->Dial(port));
  return client;
}

}  // namespace kvlink::bench
