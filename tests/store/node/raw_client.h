// A node for tests, and a client that talks to it message by message, without store/client, so that it can also send
// what our clients never would.
#ifndef KVLINK_TESTS_STORE_NODE_RAW_CLIENT_H_
#define KVLINK_TESTS_STORE_NODE_RAW_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "proto/data.h"
#include "proto/store.grpc.pb.h"
#include "store/node/node.h"
#include "tests/store/synthetic.h"
#include "tests/support/transport/loopback/loopback.h"
#include "tests/transport/peers.h"
#include "transport/transport.h"

namespace kvlink::testing {

// Keeps the lines of a node's log.
class LogLines {
 public:
  store::node::LogSink Sink();
  std::vector<std::string> lines() const;
  // How many lines contain `text`.
  int Count(absl::string_view text) const;

 private:
  struct State {
    Mutex mutex;
    std::vector<std::string> lines ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

// A field of a message as protobuf writes it: its number, and bytes.
std::string Field(int number, absl::string_view bytes);

// An access file for nodes, with permissions for its owner only.
void WriteAccessFile(const std::string& path, const std::string& lines);

// A node on its own directory, reached over the loopback or UCX's tcp.
class TestNode {
 public:
  using Change = std::function<void(store::node::NodeOptions*)>;
  explicit TestNode(Carrier carrier, const Change& change = {});
  ~TestNode();

  // Aborts the test program if it does not start.
  void Start();
  void Stop() { node_ = nullptr; }
  store::node::Node* operator->() const { return node_.get(); }

  Carrier carrier() const { return carrier_; }
  const std::string& directory() const { return directory_.path(); }
  // Without the scheme.
  std::string data_address() const;
  std::unique_ptr<transport::Transport> NewClientTransport() const;
  LogLines log;

 private:
  const Carrier carrier_;
  const Change change_;
  ScratchDirectory directory_{/*in_memory=*/true};
  const std::shared_ptr<transport::LoopbackNetwork> network_ = transport::NewLoopbackNetwork();
  std::unique_ptr<store::node::Node> node_;
};

// gRPC calls of one session.
class RawControl {
 public:
  explicit RawControl(const std::string& address);
  absl::StatusOr<store::v1::Session> Open(const std::string& key = "", const std::string& client = "test");
  // A context with the session's token (or another) and a deadline.
  std::unique_ptr<grpc::ClientContext> Context() const;
  void set_token(const std::string& token) { token_ = token; }
  const std::string& token() const { return token_; }
  store::v1::Store::Stub* operator->() const { return stub_.get(); }
  absl::StatusOr<store::v1::StatsResponse> Stats() const;

 private:
  std::unique_ptr<store::v1::Store::Stub> stub_;
  std::string token_;
};

// One connection of the data path.
class RawData {
 public:
  // The test fails if it cannot connect. `token`: the calling session's, which gRPC sends first.
  RawData(transport::Transport* transport, const std::string& address, const std::string& token = "");
  ~RawData();

  // Gives the request an id unless it has one, and sends it.
  uint64_t Send(proto::Request request);
  // Sends bytes unchanged.
  absl::Status SendBytes(absl::string_view bytes) { return connection_->SendMessage(bytes); }
  // The next answer to that request. UNAVAILABLE: the connection was closed. Error answers are returned as answers, not
  // as statuses.
  absl::StatusOr<proto::Answer> Next(uint64_t id);
  // The next answer to any request.
  absl::StatusOr<proto::Answer> NextOfAny();
  // The answer, or its error as a status.
  absl::StatusOr<proto::Answer> Ask(proto::Request request);

  absl::Status Hello(const std::string& token);
  absl::StatusOr<std::vector<FoundRecord>> Lookup(const std::string& ns, const std::vector<Identity>& identities,
                                                  Codec codec = Codec::kRawBf16);
  struct Pushed {
    Etag etag;
    bool written = false;
  };
  absl::StatusOr<Pushed> Push(const std::string& ns, const Synthetic& encoding);
  // Sends slabs and manifest after the PushReady.
  absl::StatusOr<Pushed> FinishPush(const std::string& ns, const Synthetic& encoding, const proto::Answer& ready);
  struct Pulled {
    Manifest manifest;
    uint32_t tier = 0;
    std::vector<std::string> pieces;
  };
  absl::StatusOr<Pulled> Pull(const std::string& ns, const Manifest& of, const proto::Part& part = {});
  absl::StatusOr<std::string> Act(const std::string& ns, proto::EncodingAction::Action act,
                                  const std::vector<Identity>& identities, Codec codec = Codec::kRawBf16);

  transport::Connection* connection() const { return connection_.get(); }
  Inbox* inbox() const { return inbox_.get(); }
  transport::Transport* transport() const { return transport_; }
  uint64_t TakePayloadIds(uint64_t count);
  uint64_t next_id() { return ++last_id_; }

  // Requests of the above without ids, to be left unfinished.
  static proto::Request PushBegin(const std::string& ns, const Synthetic& encoding);
  static proto::Request PushCommit(const std::string& ns, uint64_t id, const Manifest& manifest);
  static proto::Request PullOf(const std::string& ns, const Manifest& manifest, uint64_t first_payload,
                               uint32_t receives);
  // A registered buffer with these bytes.
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Registered(absl::Span<const std::byte> bytes);

 private:
  transport::Transport* const transport_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::shared_ptr<transport::Connection> connection_;
  uint64_t last_id_ = 0, last_payload_ = 0;
  std::multimap<uint64_t, proto::Answer> early_;  // answers to requests other than the awaited one
};

// The status that an answer represents.
absl::Status StatusOf(const proto::Answer& answer);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_NODE_RAW_CLIENT_H_
