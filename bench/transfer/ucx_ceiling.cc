// One polling thread on each side, with as much in flight as the store has. As in the store, one more thread verifies
// or writes.
#include "bench/transfer/ucx_ceiling.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/checksum.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "bench/bench_common.h"
#include "bench/transfer/disk_feed.h"

namespace kvlink::bench {
namespace {

constexpr unsigned kAsk = 0, kSlab = 1, kDone = 2;  // active messages
constexpr int64_t kInFlight = int64_t{4} << 20;
constexpr double kIdle = 0.001;  // seconds of polling without an event before the server waits

struct BareAsk {
  int64_t at, layers, slab_bytes;
  int64_t move;  // a UcxMove
};

// Checks slabs of a ring, and writes them to a file if there is one, on its own thread.
class Checker {
 public:
  Checker(const std::byte* ring, std::vector<uint64_t> checksums, int file)
      : ring_(ring), checksums_(std::move(checksums)), file_(file), thread_("bench-check", [this] { Loop(); }) {}
  ~Checker() {
    {
      MutexLock lock(&mutex_);
      stop_ = true;
      changed_.SignalAll();
    }
    thread_.Join();
  }
  void Add(int64_t at, int64_t bytes) {
    MutexLock lock(&mutex_);
    queue_.push_back({at, bytes});
    changed_.SignalAll();
  }
  // Slabs checked successfully since the beginning.
  int64_t checked() const { return checked_.load(std::memory_order_acquire); }

 private:
  void Loop() {
    while (true) {
      std::pair<int64_t, int64_t> next;
      {
        MutexLock lock(&mutex_);
        while (queue_.empty() && !stop_) changed_.Wait(&mutex_);
        if (stop_) return;
        next = queue_.front();
        queue_.pop_front();
      }
      const auto [begin, bytes] = next;
      for (int64_t at = begin; at < begin + bytes; at += kTransferUnit) {
        if (Xxh3(ring_ + at, kTransferUnit) != checksums_[static_cast<size_t>(at / kTransferUnit)]) {
          std::fprintf(stderr, "bare ucx: a unit at %lld arrived wrong\n", static_cast<long long>(at));
          std::exit(1);
        }
      }
      if (file_ >= 0 && pwrite(file_, ring_ + begin, static_cast<size_t>(bytes), begin) != bytes) std::exit(1);
      checked_.fetch_add(1, std::memory_order_release);
    }
  }

  const std::byte* const ring_;
  const std::vector<uint64_t> checksums_;
  const int file_;
  std::atomic<int64_t> checked_{0};
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::pair<int64_t, int64_t>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

absl::Status Error(absl::string_view what, ucs_status_t status) {
  return absl::UnavailableError(absl::StrCat("bare ucx: ", what, ": ", ucs_status_string(status)));
}

ucp_request_param_t HostMemoryParams() {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  return params;
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
    // As a server must, to notice peers that die; it also restricts UCX to tcp.
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};
    const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint_);
    return status == UCS_OK ? absl::OkStatus() : Error("connecting", status);
  }
  // Sends slabs [sent, until) of the request, with just enough in flight to keep the network busy: more is not faster,
  // and delays the first.
  absl::Status SendSlabs(const BareAsk& ask, int64_t until) {
    const int64_t depth = std::max<int64_t>(2, kInFlight / ask.slab_bytes);
    for (; sent_ < until && in_flight_ < depth; ++sent_) {
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
      const ucs_status_ptr_t answer =
          ucp_am_send_nbx(endpoint_, kSlab, &header->index, sizeof(header->index),
                          ring() + ask.at + sent_ * ask.slab_bytes, static_cast<size_t>(ask.slab_bytes), &params);
      if (UCS_PTR_IS_ERR(answer)) return Error("sending", UCS_PTR_STATUS(answer));
      if (!UCS_PTR_IS_PTR(answer)) Sent(header);
    }
    return absl::OkStatus();
  }
  int64_t sent() const { return sent_; }
  void ResetSent() { sent_ = 0; }
  absl::Status SendAsk(const BareAsk& ask) {
    asked_ = ask;
    ucp_request_param_t params = {};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
    const ucs_status_ptr_t answer = ucp_am_send_nbx(endpoint_, kAsk, nullptr, 0, &asked_, sizeof(asked_), &params);
    if (UCS_PTR_IS_ERR(answer)) return Error("asking", UCS_PTR_STATUS(answer));
    if (UCS_PTR_IS_PTR(answer)) ucp_request_free(answer);
    return absl::OkStatus();
  }
  // Receives the slab whose index is in the header into its place in the ring, then calls Received.
  static ucs_status_t OnSlab(void* arg, const void* header, size_t, void* data, size_t length,
                             const ucp_am_recv_param_t*) {
    auto* const self = static_cast<Side*>(arg);
    auto* const arriving = new Header{self, 0};
    std::memcpy(&arriving->index, header, sizeof(arriving->index));
    ucp_request_param_t params = HostMemoryParams();
    params.user_data = arriving;
    params.cb.recv_am = [](void* request, ucs_status_t status, size_t, void* arrived) {
      ucp_request_free(request);
      Arrived(static_cast<Header*>(arrived), status);
    };
    const ucs_status_ptr_t answer = ucp_am_recv_data_nbx(
        self->worker_, data, self->ring() + self->asked_.at + arriving->index * self->asked_.slab_bytes, length,
        &params);
    if (!UCS_PTR_IS_PTR(answer)) Arrived(arriving, UCS_PTR_STATUS(answer));
    return UCS_INPROGRESS;
  }
  virtual void Received(int64_t index, ucs_status_t status) = 0;

  BareAsk asked_ = {};
  std::byte* ring() const { return ring_.as<std::byte>(); }
  int64_t ring_bytes() const { return ring_.bytes(); }
  ucp_worker_h worker() const { return worker_; }
  ucp_ep_h endpoint() const { return endpoint_; }

 private:
  struct Header {
    Side* side;
    int64_t index;
  };
  static void Sent(Header* header) {
    --header->side->in_flight_;
    delete header;
  }
  static void Arrived(Header* header, ucs_status_t status) {
    header->side->Received(header->index, status);
    delete header;
  }

  int64_t sent_ = 0, in_flight_ = 0;
  Memory ring_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_mem_h memory_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
};

class Server : public Side {
 public:
  Server(int64_t ring_bytes, std::string disk_file, std::string pushed_file)
      : Side(ring_bytes), disk_file_(std::move(disk_file)), pushed_file_(std::move(pushed_file)) {}
  absl::Status Listen(int* port) {
    KVLINK_RETURN_IF_ERROR(Open());
    checksums_ = RingChecksums(ring(), ring_bytes());
    FillRing(ring(), ring_bytes());
    KVLINK_RETURN_IF_ERROR(Handle(kAsk, OnAsk));
    KVLINK_RETURN_IF_ERROR(Handle(kSlab, OnSlab));
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
  // Returns only on errors.
  absl::Status Serve() {
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
        KVLINK_RETURN_IF_ERROR(Connect(params));
        any = true;
      }
      if (asked_.layers > 0) {
        KVLINK_RETURN_IF_ERROR(Advance());
        // The disk and the checking thread may need this processor.
        if (!any && asked_.move >= static_cast<int64_t>(UcxMove::kPullDisk)) std::this_thread::yield();
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
  static ucs_status_t OnAsk(void* arg, const void*, size_t, void* data, size_t length, const ucp_am_recv_param_t*) {
    auto* const self = static_cast<Server*>(arg);
    if (length == sizeof(BareAsk)) std::memcpy(&self->asked_, data, sizeof(BareAsk));
    self->ResetSent();
    self->begun_ = false;
    return UCS_OK;
  }
  // Advances the request. It ends once its last bytes are handed to the network, because the next may come while they
  // are in transit.
  absl::Status Advance() {
    switch (static_cast<UcxMove>(asked_.move)) {
      case UcxMove::kPull:
      case UcxMove::kPullVerified:
        KVLINK_RETURN_IF_ERROR(SendSlabs(asked_, asked_.layers));
        if (sent() == asked_.layers) asked_.layers = 0;
        return absl::OkStatus();
      case UcxMove::kPullDisk: {
        if (feed_ == nullptr) {
          KVLINK_ASSIGN_OR_RETURN(feed_, DiskFeed::Create(disk_file_, ring(), ring_bytes()));
        }
        if (!std::exchange(begun_, true)) feed_->Begin(asked_.at, asked_.layers * asked_.slab_bytes);
        KVLINK_ASSIGN_OR_RETURN(const int64_t read, feed_->Poll());
        KVLINK_RETURN_IF_ERROR(SendSlabs(asked_, read / asked_.slab_bytes));
        if (sent() == asked_.layers) asked_.layers = 0;
        return absl::OkStatus();
      }
      case UcxMove::kPush:
        return AdvancePush();
    }
    return absl::InternalError("no such move");
  }
  absl::Status AdvancePush() {
    if (checker_ == nullptr) {
      const int file = open(pushed_file_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
      if (file < 0) return absl::UnavailableError("bare ucx: no file for what is pushed");
      // A store's segments also exist before they are written.
      for (int64_t at = 0; at < ring_bytes(); at += asked_.slab_bytes) {
        const int64_t bytes = std::min(asked_.slab_bytes, ring_bytes() - at);
        if (pwrite(file, ring() + at, static_cast<size_t>(bytes), at) != bytes) {
          return absl::UnavailableError("bare ucx: no room for what is pushed");
        }
      }
      checker_ = std::make_unique<Checker>(ring(), checksums_, file);
    }
    // Slabs that arrived while the file was created.
    for (const int64_t index : std::exchange(early_, {})) Check(index);
    if (!std::exchange(begun_, true)) awaited_ += asked_.layers;
    if (checker_->checked() < awaited_) return absl::OkStatus();
    asked_.layers = 0;
    done_ = awaited_;
    ucp_request_param_t params = {};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
    const ucs_status_ptr_t answer = ucp_am_send_nbx(endpoint(), kDone, nullptr, 0, &done_, sizeof(done_), &params);
    if (UCS_PTR_IS_ERR(answer)) return Error("answering", UCS_PTR_STATUS(answer));
    if (UCS_PTR_IS_PTR(answer)) ucp_request_free(answer);
    return absl::OkStatus();
  }
  void Received(int64_t index, ucs_status_t status) override {
    if (status != UCS_OK) std::exit(1);
    if (checker_ == nullptr) return early_.push_back(index);
    Check(index);
  }
  void Check(int64_t index) { checker_->Add(asked_.at + index * asked_.slab_bytes, asked_.slab_bytes); }

  const std::string disk_file_, pushed_file_;
  std::vector<uint64_t> checksums_;
  ucp_listener_h listener_ = nullptr;
  ucp_conn_request_h request_ = nullptr;
  bool begun_ = false;  // work on the request
  std::unique_ptr<DiskFeed> feed_;
  std::unique_ptr<Checker> checker_;
  std::vector<int64_t> early_;
  int64_t awaited_ = 0, done_ = 0;  // slabs pushed since the beginning
};

}  // namespace

class UcxPeer : public Side {
 public:
  using Side::Side;
  absl::Status Dial(const std::string& port) {
    KVLINK_RETURN_IF_ERROR(Open());
    KVLINK_RETURN_IF_ERROR(Handle(kSlab, OnSlab));
    KVLINK_RETURN_IF_ERROR(Handle(kDone, OnDone));
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
  absl::StatusOr<MoveTime> Move(UcxMove move, const EncodingShape& shape) {
    Prepare(move);
    const BareAsk ask = {place_.Next(shape.bytes()), shape.slabs(), shape.slab_bytes, static_cast<int64_t>(move)};
    received_ = 0;
    done_ = false;
    first_ = 0;
    ResetSent();
    const int64_t checked = checks_ ? checker_->checked() + shape.slabs() : 0;
    const double start = Now();
    KVLINK_RETURN_IF_ERROR(SendAsk(ask));
    while (move == UcxMove::kPush ? !done_ : checks_ ? checker_->checked() < checked : received_ < shape.slabs()) {
      if (move == UcxMove::kPush) KVLINK_RETURN_IF_ERROR(SendSlabs(ask, ask.layers));
      const bool any = ucp_worker_progress(worker()) != 0;
      if (!any && move != UcxMove::kPull) std::this_thread::yield();  // checking threads may need this processor
      if (failed_ != UCS_OK) return Error("receiving", failed_);
      if (Now() - start > 30) return absl::UnavailableError("bare ucx: the slabs do not come");
    }
    const double whole = Now() - start;
    return MoveTime{move == UcxMove::kPush ? whole : first_ - start, whole};
  }

 private:
  // Fills the ring with the contents that will arrive, so that it can be pushed as well.
  void Prepare(UcxMove move) {
    checks_ = move == UcxMove::kPullVerified || move == UcxMove::kPullDisk;
    if (checks_ && checker_ == nullptr) {
      std::vector<uint64_t> checksums = RingChecksums(ring(), ring_bytes());
      FillRing(ring(), ring_bytes());
      checker_ = std::make_unique<Checker>(ring(), std::move(checksums), -1);
    }
    if (move == UcxMove::kPush && !std::exchange(filled_, true)) FillRing(ring(), ring_bytes());
  }
  static ucs_status_t OnDone(void* arg, const void*, size_t, void*, size_t, const ucp_am_recv_param_t*) {
    static_cast<UcxPeer*>(arg)->done_ = true;
    return UCS_OK;
  }
  void Received(int64_t index, ucs_status_t status) override {
    if (status != UCS_OK) failed_ = status;
    if (index == 0) first_ = Now();
    ++received_;
    if (checks_) checker_->Add(asked_.at + index * asked_.slab_bytes, asked_.slab_bytes);
  }

  RingPlace place_{ring_bytes()};
  std::unique_ptr<Checker> checker_;
  bool checks_ = false, filled_ = false;
  int64_t received_ = 0;
  bool done_ = false;
  double first_ = 0;
  ucs_status_t failed_ = UCS_OK;
};

namespace {

class UcxMover : public Mover {
 public:
  UcxMover(std::shared_ptr<UcxPeer> peer, UcxMove move, std::string name)
      : peer_(std::move(peer)), move_(move), name_(std::move(name)) {}
  std::string name() const override { return name_; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override { return peer_->Move(move_, shape); }

 private:
  const std::shared_ptr<UcxPeer> peer_;
  const UcxMove move_;
  const std::string name_;
};

}  // namespace

void UseUcxAsTheTransportDoes() {
  for (const char* segment : {"UCX_TCP_RX_SEG_SIZE", "UCX_TCP_TX_SEG_SIZE"}) setenv(segment, "512k", 0);
  setenv("UCX_TCP_PUT_ENABLE", "n", 0);
  setenv("UCX_ZCOPY_THRESH", "inf", 0);
}

void ServeUcxCeiling(int64_t ring_bytes, const std::string& disk_file, const std::string& pushed_file) {
  Server server(ring_bytes, disk_file, pushed_file);
  int port = 0;
  absl::Status status = server.Listen(&port);
  if (status.ok()) {
    std::printf("%d\n", port);
    std::fflush(stdout);
    status = server.Serve();
  }
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

absl::StatusOr<std::shared_ptr<UcxPeer>> DialUcxCeiling(const std::string& port, int64_t ring_bytes) {
  auto peer = std::make_shared<UcxPeer>(ring_bytes);
  KVLINK_RETURN_IF_ERROR(peer->Dial(port));
  return peer;
}

std::unique_ptr<Mover> NewUcxCeiling(std::shared_ptr<UcxPeer> peer, UcxMove move, const std::string& name) {
  return std::make_unique<UcxMover>(std::move(peer), move, name);
}

}  // namespace kvlink::bench
