// A peer over UCX that speaks the protocol wrongly: nothing it sends is written anywhere, its connection is closed for
// a reason that is counted, and the others do not notice.
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/transport/peers.h"
#include "transport/address.h"
#include "transport/frame.h"
#include "transport/ucx/context.h"
#include "transport/ucx/wire.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

// A UCX worker whose user writes every frame by hand.
class RawPeer : public EventSource {
 public:
  explicit RawPeer(const std::string& address) : context_(*UcxContext::Create()) {
    ucp_worker_params_t params = {};
    params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    EXPECT_EQ(ucp_worker_create(context_->get(), &params, &worker_), UCS_OK);
    EXPECT_EQ(ucp_worker_get_efd(worker_, &fd_), UCS_OK);
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kFrameMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = OnFrame;
    handler.arg = this;
    EXPECT_EQ(ucp_worker_set_am_recv_handler(worker_, &handler), UCS_OK);
    thread_ = *ProgressThread::Start(this);
    const SocketAddress resolved = *Resolve(*ParseAddress(address));
    buffer_ = *UcxBuffer::Register(context_, std::make_shared<Counters>(), reinterpret_cast<std::byte*>(memory_.data()),
                                   static_cast<int64_t>(memory_.size()), {}, nullptr);
    thread_->Run([&] {
      ucp_ep_params_t endpoint = {};
      endpoint.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
      endpoint.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
      endpoint.sockaddr.addr = resolved.get();
      endpoint.sockaddr.addrlen = resolved.length;
      wire_ = *UcxWire::Open(worker_, context_.get(), thread_.get(), endpoint, address);
    });
  }
  ~RawPeer() override {
    Completion closed;
    thread_->Run([&] { wire_->Close(false, [done = closed.ForSend()] { done(absl::OkStatus()); }); });
    EXPECT_TRUE(closed.Wait().ok());
    thread_->Run([&] { wire_ = nullptr; });
    thread_->Stop();
    buffer_ = nullptr;
    ucp_worker_destroy(worker_);
  }

  bool Poll() override { return ucp_worker_progress(worker_) != 0; }
  bool Arm() override { return ucp_worker_arm(worker_) == UCS_OK; }
  int fd() const override { return fd_; }

  void Frame(const std::string& bytes) {
    thread_->Run([&] { wire_->SendFrame(bytes, [] {}); });
  }
  void Frame(FrameKind kind, const std::string& body) {
    Frame(FrameHeader(kind, sequence_++, token_, body.size()) + body);
  }
  // Says hello and waits for the answer.
  void Hello() {
    Frame(FrameKind::kHello, HelloBody({42, 2000}));
    while (token_ == 0) absl::SleepFor(absl::Milliseconds(1));
  }
  void Payload(uint64_t id, uint64_t said, int64_t bytes) { Payload(token_, id, said, bytes); }
  void Payload(uint64_t token, uint64_t id, uint64_t said, int64_t bytes) {
    const std::string body = GrantBody({{id, said}});
    thread_->Run([&] {
      wire_->SendPayload(FrameHeader(FrameKind::kPayload, 0, token, body.size()) + body, {buffer_, 0, bytes},
                         [](const absl::Status&) {});
    });
  }
  // On the id of the other kind of message, or without rendezvous.
  void Raw(unsigned id, const std::string& header, size_t bytes, unsigned flags) {
    thread_->Run([&] {
      ucp_request_param_t params = {};
      params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      params.flags = flags;
      const auto answer =
          ucp_am_send_nbx(wire_->endpoint(), id, header.data(), header.size(), memory_.data(), bytes, &params);
      if (UCS_PTR_IS_PTR(answer)) ucp_request_free(answer);
    });
  }
  uint64_t token() const { return token_; }
  // Waits until the other side granted a posted receive.
  void AwaitGrant() {
    while (!granted_) absl::SleepFor(absl::Milliseconds(1));
  }

 private:
  static ucs_status_t OnFrame(void* self, const void*, size_t, void* data, size_t length, const ucp_am_recv_param_t*) {
    const auto frame = ParseFrame(absl::string_view(static_cast<const char*>(data), length));
    if (frame.ok() && frame->kind == FrameKind::kHello)
      static_cast<RawPeer*>(self)->token_ = ParseHello(frame->body).token;
    if (frame.ok() && frame->kind == FrameKind::kGrant) static_cast<RawPeer*>(self)->granted_ = true;
    return UCS_OK;
  }

  const std::shared_ptr<UcxContext> context_;
  ucp_worker_h worker_ = nullptr;
  int fd_ = -1;
  std::unique_ptr<ProgressThread> thread_;
  std::vector<char> memory_ = std::vector<char>(1 << 20, 'h');
  std::shared_ptr<UcxBuffer> buffer_;
  std::unique_ptr<UcxWire> wire_;
  uint32_t sequence_ = 0;
  std::atomic<uint64_t> token_{0};
  std::atomic<bool> granted_{false};
};

class HostileTest : public ::testing::Test {
 protected:
  static constexpr int64_t kTarget = 64 << 10;

  HostileTest() : honest_(Carrier::kUcx) {
    target_ = *honest_.server_transport->Allocate(kTarget);
    Fill({target_, 0, kTarget}, 5);
  }
  // Connects a raw peer, says hello, lets the server arrive `bytes` for payload 1 and waits until it is granted.
  void Meet(int64_t bytes = 4096) {
    raw_ = std::make_unique<RawPeer>(honest_.server->address());
    raw_->Hello();
    Server::Accepted taken = honest_.server->Next();
    connection_ = std::move(taken.connection);
    inbox_ = std::move(taken.inbox);
    ASSERT_NE(connection_, nullptr);
    connection_->PostReceive(1, {target_, 0, bytes}, Patience(), received_.ForReceive());
    raw_->AwaitGrant();
  }
  void ExpectClosedFor(const std::string& reason) {
    EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument) << reason;
    EXPECT_TRUE(absl::IsUnavailable(received_.Wait())) << received_.Wait();
    EXPECT_EQ(honest_.server_transport->Stats().closes[reason], 1) << inbox_->Closed();
    ExpectUnharmed();
  }
  void ExpectUnharmed() {
    EXPECT_TRUE(Check({target_, 0, kTarget}, 5));
    EXPECT_TRUE(honest_.client->SendMessage("honest").ok());
    EXPECT_EQ(honest_.server_inbox->Next(), "honest");
  }
  int64_t Closes() const {
    int64_t all = 0;
    for (const auto& [reason, count] : honest_.server_transport->Stats().closes) all += count;
    return all;
  }
  std::string Header(FrameKind kind, uint32_t sequence, size_t body) {
    return FrameHeader(kind, sequence, raw_->token(), body);
  }

  Peers honest_;
  std::shared_ptr<RegisteredBuffer> target_;
  std::unique_ptr<RawPeer> raw_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Inbox> inbox_;
  Completion received_;
};

TEST_F(HostileTest, UnreservedPayload) {
  Meet();
  raw_->Payload(2, 4096, 4096);
  ExpectClosedFor("payload-unreserved");
}
TEST_F(HostileTest, OversizedPayload) {
  Meet();
  raw_->Payload(1, 4097, 4097);
  ExpectClosedFor("payload-oversized");
}
TEST_F(HostileTest, PayloadThatLiesAboutItsSize) {
  Meet();
  raw_->Payload(1, 4096, 1 << 20);
  ExpectClosedFor("payload-malformed");
}
TEST_F(HostileTest, PayloadWithoutRendezvous) {
  Meet();
  raw_->Raw(kPayloadMessage, Header(FrameKind::kPayload, 0, 16) + GrantBody({{1, 100}}), 100, UCP_AM_SEND_FLAG_EAGER);
  ExpectClosedFor("payload-malformed");
}
TEST_F(HostileTest, PayloadWithGarbageForItsFrame) {
  Meet();
  raw_->Raw(kPayloadMessage, Header(FrameKind::kPayload, 0, 16), 100, UCP_AM_SEND_FLAG_RNDV);
  ExpectClosedFor("frame-malformed");
}
TEST_F(HostileTest, PayloadTwice) {
  Meet(kTarget);
  raw_->Payload(1, 4096, 4096);
  raw_->Payload(1, 4096, 4096);
  EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument);
  const auto closes = honest_.server_transport->Stats().closes;
  EXPECT_EQ(closes.count("payload-duplicate") + closes.count("payload-unreserved"), 1u);
}
TEST_F(HostileTest, PayloadOfAWithdrawnReceiveIsDropped) {
  Meet();
  connection_->CancelReceive(1);
  EXPECT_TRUE(absl::IsCancelled(received_.Wait()));
  raw_->Payload(1, 4096, 4096);
  while (honest_.server_transport->Stats().payloads_late == 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(inbox_->closed());
  ExpectUnharmed();
  raw_->Payload(1, 4096, 4096);  // once is an accident
  EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(honest_.server_transport->Stats().closes["payload-unreserved"], 1);
  ExpectUnharmed();
}

TEST_F(HostileTest, Garbage) {
  Meet();
  raw_->Frame(Header(FrameKind::kMessage, 1, 5) + "four");
  ExpectClosedFor("frame-malformed");
}
TEST_F(HostileTest, PayloadFrameAmongFrames) {
  Meet();
  raw_->Frame(FrameKind::kPayload, GrantBody({{1, 10}}));
  ExpectClosedFor("frame-malformed");
}
TEST_F(HostileTest, AnotherVersion) {
  Meet();
  std::string frame = Header(FrameKind::kHeartbeat, 1, 0);
  frame[4] = 9;
  raw_->Frame(frame);
  ExpectClosedFor("frame-version");
}
TEST_F(HostileTest, RepeatedFrame) {
  Meet();
  raw_->Frame(Header(FrameKind::kHeartbeat, 1, 0));
  raw_->Frame(Header(FrameKind::kHeartbeat, 1, 0));
  ExpectClosedFor("frame-order");
}
TEST_F(HostileTest, SecondHello) {
  Meet();
  raw_->Frame(FrameKind::kHello, HelloBody({43, 2000}));
  ExpectClosedFor("hello");
}
TEST_F(HostileTest, GrantsThatCannotBe) {
  for (const uint64_t bytes : {uint64_t{0}, static_cast<uint64_t>(kMaxPayloadBytes) + 1, UINT64_MAX}) {
    received_ = Completion();
    Meet();
    raw_->Frame(FrameKind::kGrant, GrantBody({{7, bytes}}));
    EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
  EXPECT_EQ(honest_.server_transport->Stats().closes["grant-malformed"], 3);
}
TEST_F(HostileTest, GrantTwice) {
  Meet();
  raw_->Frame(FrameKind::kGrant, GrantBody({{7, 10}, {7, 10}}));
  ExpectClosedFor("grant-duplicate");
}
TEST_F(HostileTest, TooManyGrants) {
  Meet();
  std::vector<Grant> grants;
  for (uint64_t id = 0; id < kMaxOperations; ++id) grants.push_back({id, 1});
  raw_->Frame(FrameKind::kGrant, GrantBody(grants));
  raw_->Frame(FrameKind::kGrant, GrantBody({{kMaxOperations, 1}}));
  ExpectClosedFor("grant-excess");
}
TEST_F(HostileTest, WithdrawalsOfNothing) {
  Meet();
  std::vector<uint64_t> ids(kMaxGrants);
  for (uint64_t i = 0; i < ids.size(); ++i) ids[i] = i;
  for (int i = 0; i < 20; ++i) raw_->Frame(FrameKind::kWithdraw, WithdrawBody(ids));
  raw_->Frame(FrameKind::kMessage, "alive");
  EXPECT_EQ(inbox_->Next(), "alive");
  ExpectUnharmed();
}

// Before hello, nothing but hello.
TEST_F(HostileTest, NoHello) {
  for (const std::string& frame :
       {FrameHeader(FrameKind::kMessage, 0, 0, 5) + "hello",
        FrameHeader(FrameKind::kHello, 0, 0, 12) + HelloBody({0, 2000}),
        FrameHeader(FrameKind::kHello, 0, 0, 12) + HelloBody({9, 1}), std::string("x"), std::string(100000, '\0')}) {
    const int64_t before = Closes();
    RawPeer raw(honest_.server->address());
    raw.Frame(frame);
    while (Closes() == before) absl::SleepFor(absl::Milliseconds(1));
  }
  ExpectUnharmed();
}

// Frames for tokens that are nobody's, and rendezvous where a frame should be, are dropped; they cannot be laid to the
// charge of any connection.
TEST_F(HostileTest, ForgedTokens) {
  Meet();
  for (uint64_t token = 1; token < 50; ++token) {
    raw_->Frame(FrameHeader(FrameKind::kMessage, 0, token, 6) + "forged");
    raw_->Payload(token, 1, 4096, 4096);
  }
  raw_->Raw(kFrameMessage, "", 1 << 20, UCP_AM_SEND_FLAG_RNDV);
  raw_->Frame(FrameKind::kMessage, "alive");
  EXPECT_EQ(inbox_->Next(), "alive");
  ExpectUnharmed();
}

}  // namespace
}  // namespace kvlink::transport
