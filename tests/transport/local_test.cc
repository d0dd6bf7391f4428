// Unix sockets: descriptors beside messages, paths, crowds, and peers that die, freeze, flood or speak the protocol
// wrongly.
#include "transport/local/local.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/descriptor_limit.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"
#include "tests/transport/peers.h"
#include "transport/frame.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

// Keeps messages and what came beside them.
class DescriptorInbox : public LocalEvents {
 public:
  void OnMessage(absl::string_view message) override { inbox.OnMessage(message); }
  void OnMessageWithDescriptors(absl::string_view message, std::vector<Descriptor> descriptors) override {
    {
      MutexLock lock(&mutex_);
      for (Descriptor& descriptor : descriptors) descriptors_.push_back(std::move(descriptor));
    }
    inbox.OnMessage(absl::StrCat(message, " and ", descriptors.size()));
  }
  void OnClosed(const absl::Status& why) override { inbox.OnClosed(why); }
  std::vector<Descriptor> TakeDescriptors() {
    MutexLock lock(&mutex_);
    return std::exchange(descriptors_, {});
  }
  Inbox inbox;

 private:
  Mutex mutex_;
  std::vector<Descriptor> descriptors_ ABSL_GUARDED_BY(mutex_);
};

std::unique_ptr<LocalTransport> NewLocal(const TransportOptions& options = {}) {
  auto made = NewLocalTransport(options);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// A file in memory that holds `text`.
Descriptor File(const std::string& text) {
  Descriptor file(memfd_create("kvlink-test", MFD_CLOEXEC));
  EXPECT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  return file;
}

std::string Contents(const Descriptor& file) {
  std::string text(100, '\0');
  const ssize_t length = pread(file.get(), text.data(), text.size(), 0);
  text.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return text;
}

// A pipe: whether anybody holds its end for writing still.
class Witness {
 public:
  Witness() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_ = Descriptor(ends[0]);
    write_ = Descriptor(ends[1]);
  }
  int fd() const { return write_.get(); }
  // Lets go of our own end and waits until all others are closed.
  bool AllClosed() {
    { const Descriptor ours = std::move(write_); }
    pollfd wait = {read_.get(), 0, 0};
    return poll(&wait, 1, 60000) == 1 && (wait.revents & POLLHUP) != 0;
  }

 private:
  Descriptor read_, write_;
};

// A socket whose user writes every packet by hand.
class RawPeer {
 public:
  explicit RawPeer(const std::string& path) : socket_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const int large = 4 << 20;
    if (setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large)) != 0) {
      setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
    }
  }
  // False: the other side is gone.
  bool Packet(const std::string& bytes, const std::vector<int>& descriptors = {}) {
    iovec vec = {const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message = {};
    message.msg_iov = &vec;
    message.msg_iovlen = 1;
    std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
    }
    return sendmsg(socket_.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  bool Frame(FrameKind kind, const std::string& body, const std::vector<int>& descriptors = {}) {
    return Packet(FrameHeader(kind, sequence_++, token_, body.size()) + body, descriptors);
  }
  void Hello() {
    Frame(FrameKind::kHello, HelloBody({42, 2000}));
    std::string answer(1000, '\0');
    const ssize_t length = recv(socket_.get(), answer.data(), answer.size(), 0);
    const auto frame = ParseFrame(absl::string_view(answer.data(), length < 0 ? 0 : static_cast<size_t>(length)));
    ASSERT_TRUE(frame.ok()) << frame.status();
    token_ = ParseHello(frame->body).token;
  }
  // Reads until the other side closes. False: it does not.
  bool Closed() {
    std::string packet(1000, '\0');
    const timeval patience = {60, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    for (;;) {
      const ssize_t length = recv(socket_.get(), packet.data(), packet.size(), 0);
      if (length == 0 || (length < 0 && errno == ECONNRESET)) return true;
      if (length < 0) return false;
    }
  }
  int fd() const { return socket_.get(); }
  uint64_t token() const { return token_; }

 private:
  Descriptor socket_;
  uint32_t sequence_ = 0;
  uint64_t token_ = 0;
};

// A server whose connections take descriptors, or not.
class LocalTest : public ::testing::Test {
 protected:
  void Listen(bool takes_descriptors, const TransportOptions& options = {}) {
    listener_ = nullptr;  // before its transport
    server_ = NewLocal(options);
    path_ = NewAddress(Carrier::kLocal);
    auto listener =
        server_->ListenLocal(path_, 0600, [this, takes_descriptors](std::shared_ptr<LocalConnection> connection) {
          MutexLock lock(&mutex_);
          accepted_ = std::move(connection);
          inbox_ = std::make_shared<DescriptorInbox>();
          plain_ = std::make_shared<Inbox>();
          changed_.SignalAll();
          return takes_descriptors ? std::static_pointer_cast<ConnectionEvents>(inbox_)
                                   : std::static_pointer_cast<ConnectionEvents>(plain_);
        });
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  // The connection accepted last.
  std::shared_ptr<LocalConnection> Accepted() {
    MutexLock lock(&mutex_);
    while (accepted_ == nullptr) changed_.Wait(&mutex_);
    return std::exchange(accepted_, nullptr);
  }
  std::shared_ptr<LocalConnection> Connect(const std::shared_ptr<ConnectionEvents>& events) {
    auto connected = client_->ConnectLocal(path_, events, Patience());
    EXPECT_TRUE(connected.ok()) << connected.status();
    return connected.ok() ? *connected : nullptr;
  }
  int64_t Closes(const std::string& reason) { return server_->Stats().closes[reason]; }
  void ExpectServed() {
    auto events = std::make_shared<Inbox>();
    const auto connection = Connect(events);
    const auto accepted = Accepted();
    ASSERT_TRUE(connection->SendMessage("honest").ok());
    ASSERT_TRUE(accepted->SendMessage("answer").ok());
    EXPECT_EQ(events->Next(), "answer");
  }

  std::unique_ptr<LocalTransport> server_, client_ = NewLocal();
  std::string path_;
  std::unique_ptr<Listener> listener_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<LocalConnection> accepted_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<DescriptorInbox> inbox_;
  std::shared_ptr<Inbox> plain_;
};

TEST_F(LocalTest, DescriptorsArriveBesideTheirMessages) {
  Listen(true);
  const auto events = std::make_shared<DescriptorInbox>();
  const auto client = Connect(events), server = Accepted();
  for (int round = 0; round < 20; ++round) {
    std::vector<Descriptor> files;
    std::vector<int> numbers;
    const int count = round == 7 ? kMaxDescriptors : 1 + round % 5;
    for (int i = 0; i < count; ++i) {
      files.push_back(File(absl::StrCat("file ", round, " ", i)));
      numbers.push_back(files.back().get());
    }
    const std::string text = round == 3 ? std::string(kMaxMessageBytes, 'x') : absl::StrCat("round ", round);
    ASSERT_TRUE(client->SendMessage("before").ok());
    ASSERT_TRUE(client->SendMessageWithDescriptors(text, numbers).ok());
    ASSERT_TRUE(server->SendMessageWithDescriptors(text, numbers).ok());
    ASSERT_TRUE(client->SendMessageWithDescriptors("behind", {}).ok());
    files.clear();  // ours
    EXPECT_EQ(inbox_->inbox.Next(), "before");
    for (DescriptorInbox* inbox : {inbox_.get(), events.get()}) {
      EXPECT_EQ(inbox->inbox.Next(), absl::StrCat(text, " and ", count));
      const auto taken = inbox->TakeDescriptors();
      ASSERT_EQ(taken.size(), static_cast<size_t>(count));
      for (int i = 0; i < count; ++i) {
        EXPECT_EQ(Contents(taken[i]), absl::StrCat("file ", round, " ", i));
        EXPECT_NE(fcntl(taken[i].get(), F_GETFD) & FD_CLOEXEC, 0);
      }
    }
    EXPECT_EQ(inbox_->inbox.Next(), "behind");
  }
}

TEST_F(LocalTest, DescriptorsThatCannotBeSent) {
  Listen(true);
  const auto client = Connect(std::make_shared<Inbox>()), server = Accepted();
  Witness witness;
  EXPECT_EQ(client->SendMessageWithDescriptors("m", std::vector<int>(kMaxDescriptors + 1, witness.fd())).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client->SendMessageWithDescriptors("m", {witness.fd(), -1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client->SendMessageWithDescriptors("", {witness.fd()}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(witness.AllClosed());
  ASSERT_TRUE(client->SendMessage("still here").ok());
  EXPECT_EQ(inbox_->inbox.Next(), "still here");
  client->Close();
  EXPECT_EQ(inbox_->inbox.Closed().code(), absl::StatusCode::kUnavailable);
  Witness late;
  EXPECT_EQ(client->SendMessageWithDescriptors("m", {late.fd()}).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(late.AllClosed());
}

TEST_F(LocalTest, ThereAreNoPayloads) {
  Listen(true);
  const auto client = Connect(std::make_shared<Inbox>());
  Completion arrived, sent;
  client->PostReceive(1, {}, Patience(), arrived.ForReceive());
  client->Send(1, {}, Patience(), sent.ForSend());
  client->CancelReceive(1);
  EXPECT_EQ(arrived.Wait().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(client_->Allocate(4096).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(LocalTest, CredentialsAreThePeers) {
  Listen(true);
  const auto client = Connect(std::make_shared<Inbox>()), server = Accepted();
  EXPECT_EQ(server->credentials().process, getpid());
  EXPECT_EQ(server->credentials().user, getuid());
  EXPECT_EQ(client->credentials().group, getgid());
}

// Paths.

TEST_F(LocalTest, ThePathHasItsModeAndGoesWithTheListener) {
  for (const mode_t mode : {0600, 0660, 0666}) {
    const std::string path = NewAddress(Carrier::kLocal);
    auto listener = client_->ListenLocal(path, mode, [](std::shared_ptr<LocalConnection>) { return nullptr; });
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_EQ((*listener)->address(), path);
    struct stat file = {};
    ASSERT_EQ(stat(path.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, mode);
    listener->reset();
    EXPECT_FALSE(std::filesystem::exists(path));
  }
}

TEST_F(LocalTest, APathInUseStays) {
  Listen(true);
  const auto refuse = [](std::shared_ptr<LocalConnection>) { return nullptr; };
  EXPECT_EQ(client_->ListenLocal(path_, 0600, refuse).status().code(), absl::StatusCode::kUnavailable);
  ExpectServed();
  const std::string file = NewAddress(Carrier::kLocal);
  std::ofstream(file) << "mine";
  EXPECT_EQ(client_->ListenLocal(file, 0600, refuse).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::filesystem::file_size(file), 4u);
  std::filesystem::remove(file);
  EXPECT_EQ(client_->ListenLocal("", 0600, refuse).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->ListenLocal(std::string(108, 'x'), 0600, refuse).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->ListenLocal("/nowhere/socket", 0600, refuse).status().code(), absl::StatusCode::kUnavailable);
}

// A killed process leaves its socket behind, which is replaced; the old listener does not remove its successor.
TEST_F(LocalTest, ALeftSocketIsReplaced) {
  const std::string path = NewAddress(Carrier::kLocal), kept = path + ".kept";
  auto first = client_->ListenLocal(path, 0600, [](std::shared_ptr<LocalConnection>) { return nullptr; });
  ASSERT_TRUE(first.ok());
  std::filesystem::create_hard_link(path, kept);
  first->reset();
  std::filesystem::rename(kept, path);
  ASSERT_TRUE(std::filesystem::is_socket(path));
  EXPECT_EQ(client_->ConnectLocal(path, std::make_shared<Inbox>(), Patience()).status().code(),
            absl::StatusCode::kUnavailable);
  Listen(true);
  auto second = client_->ListenLocal(path, 0600, [](std::shared_ptr<LocalConnection>) { return nullptr; });
  ASSERT_TRUE(second.ok()) << second.status();
  std::filesystem::rename(path, kept);
  std::ofstream(path) << "another";
  second->reset();
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
  std::filesystem::remove(kept);
}

// Crowds.

TEST_F(LocalTest, AThousandConnections) {
  const int count = RaiseDescriptorLimit() >= 4000 ? 1000 : 200;
  auto server_transport = NewLocal();
  Server server(server_transport.get(), NewAddress(Carrier::kLocal));
  std::vector<std::shared_ptr<Connection>> clients;
  std::vector<std::shared_ptr<Inbox>> inboxes;
  std::vector<Server::Accepted> accepted;
  for (int i = 0; i < count; ++i) {
    inboxes.push_back(std::make_shared<Inbox>());
    auto connected = client_->Connect(server.address(), inboxes.back(), Patience());
    ASSERT_TRUE(connected.ok()) << i << connected.status();
    clients.push_back(*connected);
    accepted.push_back(server.Next());
  }
  for (int i = 0; i < count; ++i) ASSERT_TRUE(clients[i]->SendMessage(absl::StrCat("request ", i)).ok());
  for (int i = 0; i < count; ++i) {
    const auto request = accepted[i].inbox->Next();
    ASSERT_EQ(request, absl::StrCat("request ", i));
    ASSERT_TRUE(accepted[i].connection->SendMessage(*request + " answered").ok());
  }
  for (int i = 0; i < count; ++i) ASSERT_EQ(inboxes[i]->Next(), absl::StrCat("request ", i, " answered"));
  clients.clear();
  for (int i = 0; i < count; ++i) ASSERT_EQ(accepted[i].inbox->Closed().code(), absl::StatusCode::kUnavailable);
}

// A peer that takes nothing: what waits for it is bounded, and given up with the connection.
TEST_F(LocalTest, ASlowReaderIsRefusedMore) {
  Listen(true);
  RawPeer raw(path_);
  raw.Hello();
  const auto server = Accepted();
  Witness witness;
  int descriptors = 0, messages = 0;
  // Refused, and still refused when the system has taken what it takes.
  for (int refused = 0; refused < 20; ++refused) {
    for (; server->SendMessageWithDescriptors("d", {witness.fd()}).ok(); ++descriptors) refused = 0;
    for (; server->SendMessage(std::string(kMaxMessageBytes, 'm')).ok(); ++messages) refused = 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(server->SendMessageWithDescriptors("d", {witness.fd()}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server->SendMessage(std::string(kMaxMessageBytes, 'm')).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(descriptors, kMaxQueuedDescriptors);
  EXPECT_LE(messages, 2 * kMaxQueuedMessageBytes / kMaxMessageBytes);
  ExpectServed();
  server->Close();
  EXPECT_TRUE(raw.Closed());
  EXPECT_TRUE(witness.AllClosed());
}

// A peer that says too much does not keep others from being served.
TEST_F(LocalTest, AFloodLeavesOthersTheirTurn) {
  Listen(true);
  RawPeer raw(path_);
  raw.Hello();
  const auto flooded = Accepted();
  const auto sink = inbox_;
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    while (!stop && raw.Frame(FrameKind::kHeartbeat, "")) {
    }
  });
  for (int i = 0; i < 20; ++i) ExpectServed();
  stop = true;
  flood.join();
  EXPECT_FALSE(sink->inbox.closed());
}

// Peers that break the protocol.

TEST_F(LocalTest, DescriptorsThatNobodyAskedForAreClosed) {
  Listen(false);
  RawPeer raw(path_);
  raw.Hello();
  const auto keep = Accepted();
  Witness witness;
  raw.Frame(FrameKind::kMessage, "m", {witness.fd()});
  EXPECT_EQ(plain_->Closed().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(raw.Closed());
  EXPECT_TRUE(witness.AllClosed());
  EXPECT_EQ(Closes("descriptors"), 1);
  // Beside the hello, before anybody could have asked.
  Witness early;
  RawPeer second(path_);
  second.Frame(FrameKind::kHello, HelloBody({42, 2000}), {early.fd()});
  EXPECT_TRUE(second.Closed());
  EXPECT_TRUE(early.AllClosed());
  EXPECT_EQ(Closes("descriptors"), 2);
  ExpectServed();
}

TEST_F(LocalTest, MoreDescriptorsThanAreTakenAreClosed) {
  Listen(true);
  RawPeer raw(path_);
  raw.Hello();
  const auto keep = Accepted();
  Witness witness;
  raw.Frame(FrameKind::kMessage, "m", std::vector<int>(kMaxDescriptors + 1, witness.fd()));
  EXPECT_EQ(inbox_->inbox.Closed().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(witness.AllClosed());
  EXPECT_EQ(Closes("descriptors"), 1);
}

TEST_F(LocalTest, DescriptorsBesideWhatIsNoMessageAreClosed) {
  for (const FrameKind kind : {FrameKind::kHeartbeat, FrameKind::kPayload}) {
    Listen(true);
    RawPeer raw(path_);
    raw.Hello();
    const auto keep = Accepted();
    Witness witness;
    raw.Frame(kind, "", {witness.fd()});
    EXPECT_TRUE(witness.AllClosed());
    EXPECT_EQ(inbox_->inbox.closed(), kind == FrameKind::kPayload && Closes("frame-malformed") == 1);
  }
}

TEST_F(LocalTest, PacketsThatAreNoFrames) {
  const std::string most = FrameHeader(FrameKind::kMessage, 1, 0, kMaxMessageBytes + 1);
  const std::pair<std::string, std::string> packets[] = {
      {"x", "frame-malformed"},
      {std::string(1 << 20, 'x'), "frame-malformed"},
      {most + std::string(kMaxMessageBytes + 1, 'x'), "frame-malformed"},
      {most + std::string(2 * kMaxMessageBytes, 'x'), "frame-malformed"},
      {FrameHeader(FrameKind::kHeartbeat, 1, 7, 0), "frame-token"},
      {FrameHeader(FrameKind::kHello, 1, 7, 12) + HelloBody({1, 2000}), "hello"},
      {"", "network"},  // as if it had closed
  };
  for (const auto& [packet, reason] : packets) {
    Listen(true);
    RawPeer raw(path_);
    raw.Hello();
    const auto keep = Accepted();
    raw.Packet(packet);
    EXPECT_FALSE(inbox_->inbox.Closed().ok());
    EXPECT_TRUE(raw.Closed());
    EXPECT_EQ(Closes(reason), 1) << reason << ", " << packet.size() << " bytes";
    ExpectServed();
  }
}

// Bytes at random, at random moments: the server stays.
TEST_F(LocalTest, Garbage) {
  Listen(true);
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < (Soak() ? 5000 : 100); ++i) {
    RawPeer raw(path_);
    if (random() % 2 == 0) {
      raw.Hello();
      Accepted();
    }
    for (int j = 0; j < 5; ++j) {
      std::string packet = FrameHeader(static_cast<FrameKind>(random() % 8), static_cast<uint32_t>(random() % 3),
                                       random() % 2 == 0 ? raw.token() : random(), random() % 40);
      packet.resize(random() % 70, static_cast<char>(random()));
      if (!packet.empty() && random() % 3 == 0)
        packet[random() % packet.size()] ^= static_cast<char>(1 + random() % 255);
      Witness witness;
      raw.Packet(packet, random() % 4 == 0 ? std::vector<int>{witness.fd()} : std::vector<int>{});
    }
  }
  ExpectServed();
}

// Peers that die and freeze.

class LocalDeathTest : public LocalTest {
 protected:
  std::vector<std::string> Child() const {
    return {(std::filesystem::read_symlink("/proc/self/exe").parent_path() / "transport_peer_process").string(),
            "local", path_};
  }
};

TEST_F(LocalDeathTest, KilledPeer) {
  Listen(true);
  for (int cycle = 0; cycle < (Soak() ? 1000 : 10); ++cycle) {
    Subprocess child(Child());
    const auto connection = Accepted();
    const auto inbox = inbox_;
    EXPECT_NE(connection->credentials().process, getpid());
    if (cycle % 2 == 0) {
      EXPECT_TRUE(connection->SendMessage("unread").ok());
    }
    child.Kill();
    EXPECT_EQ(inbox->inbox.Closed().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(inbox->inbox.closings(), 1);
  }
}

TEST_F(LocalDeathTest, FrozenPeer) {
  TransportOptions options;
  options.heartbeat = absl::Milliseconds(200);  // idle: 2 s
  Listen(true, options);
  Subprocess child(Child());
  const auto connection = Accepted();
  child.Signal(SIGSTOP);
  EXPECT_EQ(inbox_->inbox.Closed().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Closes("heartbeat"), 1);
}

}  // namespace
}  // namespace kvlink::transport
