// Readers on the node's own host: descriptors of memory, leases, and what tells that leased bytes are still good.
#include "transport/local/local.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/node/data/leases.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/resident_bytes.h"
#include "tests/support/seed.h"
#include "transport/frame.h"

namespace kvlink::testing {
namespace {

// Maps what the node shares, read-only.
class Mapping {
 public:
  Mapping(int descriptor, size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    EXPECT_NE(data_, MAP_FAILED);
    struct stat info = {};
    EXPECT_EQ(fstat(descriptor, &info), 0);
    file_ = info.st_ino;
    writable_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) != MAP_FAILED;
  }
  ~Mapping() { munmap(data_, bytes_); }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  bool writable() const { return writable_; }
  ino_t file() const { return file_; }

 private:
  const size_t bytes_;
  void* data_;
  bool writable_;
  ino_t file_ = 0;
};

// A connection over the node's socket.
class LocalClient {
 public:
  LocalClient(transport::LocalTransport* transport, const std::string& path) {
    auto connected = transport->ConnectLocal(path, inbox_, Patience());
    EXPECT_TRUE(connected.ok()) << connected.status();
    connection_ = *std::move(connected);
  }
  ~LocalClient() { connection_->Close(); }

  uint64_t Send(proto::Request request) {
    request.set_id(++last_id_);
    request.set_remaining_ms(60000);
    const std::string bytes = SerializeRequest(request);
    (void)connection_->SendMessage({bytes.data(), bytes.size()});
    return request.id();
  }
  // The next answer to that request; takes in memory on the way.
  absl::StatusOr<proto::Answer> Next(uint64_t id) {
    while (true) {
      for (auto early = early_.begin(); early != early_.end(); ++early) {
        if (early->id() != id) continue;
        proto::Answer answer = std::move(*early);
        early_.erase(early);
        return answer;
      }
      auto message = inbox_->Next();
      if (!message.has_value()) return absl::UnavailableError("the connection was closed");
      KVLINK_ASSIGN_OR_RETURN(proto::Answer answer, ParseAnswer({message->text.data(), message->text.size()}));
      if (answer.has_shared_memory()) {
        const proto::SharedMemory& memory = answer.shared_memory();
        EXPECT_EQ(message->descriptors.size(), memory.bytes() > 0 ? 1u : 0u);
        if (memory.bytes() == 0) {
          EXPECT_EQ(memories.erase(memory.memory()), 1u);
          continue;
        }
        EXPECT_FALSE(memories.contains(memory.memory())) << "it was sent twice";
        memories[memory.memory()] = std::make_unique<Mapping>(message->descriptors[0].get(), memory.bytes());
        names[memory.memory()] = memory.ns();
      } else {
        EXPECT_TRUE(message->descriptors.empty());
        early_.push_back(std::move(answer));
      }
    }
  }
  absl::StatusOr<proto::Answer> Ask(proto::Request request) {
    KVLINK_ASSIGN_OR_RETURN(proto::Answer answer, Next(Send(std::move(request))));
    KVLINK_RETURN_IF_ERROR(StatusOf(answer));
    return answer;
  }
  absl::Status Hello(const std::string& token) {
    proto::Request request;
    request.mutable_hello()->set_token(token);
    return Ask(std::move(request)).status();
  }
  absl::StatusOr<proto::Leased> Lease(const std::string& ns, const Manifest& manifest) {
    proto::Request request;
    request.set_ns(ns);
    proto::EncodingName* const name = request.mutable_lease()->mutable_name();
    name->set_identity(std::string(BytesOf(manifest.identity)));
    name->set_codec(static_cast<uint32_t>(manifest.codec));
    name->set_etag(std::string(BytesOf(manifest.etag)));
    KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, Ask(std::move(request)));
    return answer.leased();
  }
  // Waits until that many layers of the lease are there.
  absl::Status AwaitRead(const proto::Leased& lease, uint32_t layers) {
    uint32_t arrived = lease.ready();
    while (arrived < layers) {
      KVLINK_ASSIGN_OR_RETURN(const proto::Answer news, Next(0));
      KVLINK_RETURN_IF_ERROR(StatusOf(news));
      if (news.layers_ready().lease() != lease.lease()) return absl::InternalError("news of another lease");
      arrived = news.layers_ready().ready();
    }
    return absl::OkStatus();
  }
  const std::byte* At(uint32_t memory, uint64_t offset) { return memories.at(memory)->data() + offset; }
  uint64_t Generation(uint64_t slot) {
    uint64_t generation;
    std::memcpy(&generation, At(store::node::kGenerationsMemory, slot * sizeof(generation)), sizeof(generation));
    return generation;
  }
  absl::Status Closed() { return inbox_->Closed(); }

  std::map<uint32_t, std::unique_ptr<Mapping>> memories;
  std::map<uint32_t, std::string> names;

 private:
  struct Message {
    std::string text;
    std::vector<Descriptor> descriptors;
  };
  class Messages : public transport::LocalEvents {
   public:
    void OnMessage(absl::string_view text) override { Add({std::string(text), {}}); }
    void OnMessageWithDescriptors(absl::string_view text, std::vector<Descriptor> descriptors) override {
      Add({std::string(text), std::move(descriptors)});
    }
    void OnClosed(const absl::Status& why) override { closed_.OnClosed(why), closed_signal(); }
    std::optional<Message> Next() {
      MutexLock lock(&mutex_);
      const absl::Time limit = Patience();
      while (messages_.empty()) {
        if (over_ || !changed_.WaitUntil(&mutex_, limit)) return std::nullopt;
      }
      Message message = std::move(messages_.front());
      messages_.pop_front();
      return message;
    }
    absl::Status Closed() { return closed_.Closed(); }

   private:
    void Add(Message message) {
      MutexLock lock(&mutex_);
      messages_.push_back(std::move(message));
      changed_.SignalAll();
    }
    void closed_signal() {
      MutexLock lock(&mutex_);
      over_ = true;
      changed_.SignalAll();
    }
    Inbox closed_;
    Mutex mutex_;
    CondVar changed_;
    std::deque<Message> messages_ ABSL_GUARDED_BY(mutex_);
    bool over_ ABSL_GUARDED_BY(mutex_) = false;
  };
  const std::shared_ptr<Messages> inbox_ = std::make_shared<Messages>();
  std::shared_ptr<transport::LocalConnection> connection_;
  uint64_t last_id_ = 0;
  std::deque<proto::Answer> early_;
};

class LocalTest : public ::testing::Test {
 protected:
  void StartNode(const TestNode::Change& change = {}) {
    node_ = std::make_unique<TestNode>(Carrier::kLoopback, [&](store::node::NodeOptions* options) {
      options->engine.share_memory = true;
      options->local_socket = socket();
      if (change) change(options);
    });
    control_ = std::make_unique<RawControl>((*node_)->addresses().control);
    loopback_ = node_->NewClientTransport();
    auto local = transport::NewLocalTransport({});
    ASSERT_TRUE(local.ok()) << local.status();
    local_ = *std::move(local);
  }
  std::string socket() const { return directory_.path() + "/run/socket"; }
  std::unique_ptr<LocalClient> Connect(const std::string& key = "") {
    control_->set_token("");
    const auto session = control_->Open(key);
    EXPECT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(session->local_socket(), socket());
    auto client = std::make_unique<LocalClient>(local_.get(), socket());
    const absl::Status hello = client->Hello(control_->token());
    EXPECT_TRUE(hello.ok()) << hello;
    return client;
  }
  void Push(const std::string& ns, const Synthetic& encoding, const std::string& key = "") {
    RawControl control((*node_)->addresses().control);
    ASSERT_TRUE(control.Open(key).ok());
    RawData data(loopback_.get(), node_->data_address());
    ASSERT_TRUE(data.Hello(control.token()).ok());
    const auto pushed = data.Push(ns, encoding);
    ASSERT_TRUE(pushed.ok()) << pushed.status();
  }
  void DropTier() {
    RawControl control((*node_)->addresses().control);
    ASSERT_TRUE(control.Open().ok());
    store::v1::DropDramTierResponse response;
    ASSERT_TRUE(control->DropDramTier(control.Context().get(), {}, &response).ok());
  }
  void AwaitIdle() {
    const absl::Time limit = Patience();
    while (!(*node_)->idle() && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(10));
    EXPECT_TRUE((*node_)->idle());
  }
  static void ExpectBytes(LocalClient* client, const proto::Leased& lease, const Synthetic& encoding) {
    ASSERT_TRUE(client->AwaitRead(lease, static_cast<uint32_t>(encoding.slabs.size())).ok());
    ASSERT_EQ(lease.offsets_size(), static_cast<int>(encoding.slabs.size()));
    for (int layer = 0; layer < lease.offsets_size(); ++layer) {
      const Slab& slab = encoding.slabs[layer];
      EXPECT_EQ(std::memcmp(client->At(lease.memories(layer), lease.offsets(layer)), slab.data(), slab.size()), 0)
          << layer;
    }
  }

  ScratchDirectory directory_{/*in_memory=*/true};
  std::unique_ptr<TestNode> node_;
  std::unique_ptr<transport::Transport> loopback_;
  std::unique_ptr<transport::LocalTransport> local_;
  std::unique_ptr<RawControl> control_;
};

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

// Whoever may connect need not enter the store's directory, and cannot.
TEST_F(LocalTest, TheSocketHasADirectoryOfItsOwn) {
  const std::string access = directory_.path() + "/access";
  WriteAccessFile(access, "reader  reader-key-123456 read  *\n");
  const auto guard = [&](store::node::NodeOptions* options) { options->access_file = access; };
  StartNode(guard);
  EXPECT_EQ(ModeOf(directory_.path() + "/run"), 0750);
  EXPECT_EQ(ModeOf(socket()), 0660);
  EXPECT_EQ(ModeOf(node_->directory() + "/store"), 0700);
  (void)Connect("reader-key-123456");
  // One that is there is somebody's, and stays as it is.
  ASSERT_EQ(chmod((directory_.path() + "/run").c_str(), 0711), 0);
  node_ = nullptr;
  StartNode(guard);
  EXPECT_EQ(ModeOf(directory_.path() + "/run"), 0711);
}

TEST_F(LocalTest, LeasedBytesAreReadInPlace) {
  StartNode();
  const Synthetic encoding = MakeSynthetic(1, /*layers=*/4, /*tokens=*/600, /*kv_heads=*/2);
  const auto client = Connect();
  Push("a", encoding);
  const auto lease = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(lease->tier(), 1u);
  EXPECT_EQ(client->names.at(lease->memories(0)), "a");
  EXPECT_EQ(client->names.at(store::node::kGenerationsMemory), "");
  ExpectBytes(client.get(), *lease, encoding);
  const auto manifest = ParseManifest({lease->manifest().data(), lease->manifest().size()});
  ASSERT_TRUE(manifest.ok());
  EXPECT_EQ(manifest->etag, encoding.manifest.etag);
  EXPECT_EQ(client->Generation(lease->generation_slot()), lease->generation());
  for (const auto& [number, memory] : client->memories) EXPECT_FALSE(memory->writable()) << number;
  // Another lease on the same stay in memory.
  const auto again = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->residency(), lease->residency());
  EXPECT_NE(again->lease(), lease->lease());
}

// Descriptors and mappings of a reader are as many as what it reads lies in, however many namespaces there are.
TEST_F(LocalTest, MemoryComesWithLeasesAndGoesWhenNothingLiesInIt) {
  StartNode([](store::node::NodeOptions* options) { options->engine.keep_unused_memory = absl::ZeroDuration(); });
  const Synthetic encoding = MakeSynthetic(1, /*layers=*/4, /*tokens=*/600, /*kv_heads=*/2);
  for (const char* ns : {"a", "b", "c", "d"}) Push(ns, encoding);
  const auto client = Connect();
  for (int round = 0; round < 3; ++round) {
    const auto lease = client->Lease("a", encoding.manifest);
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_EQ(client->memories.size(), 2u) << "what it leases, and the table of generations";
    ExpectBytes(client.get(), *lease, encoding);
    const uint32_t memory = lease->memories(0);
    proto::Request release;
    release.mutable_release()->add_leases(lease->lease());
    ASSERT_TRUE(client->Ask(release).ok());
    AwaitIdle();
    DropTier();
    const absl::Time limit = Patience();
    while (client->memories.contains(memory) && SteadyNow() < limit) {
      proto::Request renew;
      renew.mutable_renew();
      ASSERT_TRUE(client->Ask(renew).ok());  // takes in what was sent before
      absl::SleepFor(absl::Milliseconds(50));
    }
    ASSERT_FALSE(client->memories.contains(memory)) << "round " << round;
  }
}

// Of a request that is refused, too.
TEST_F(LocalTest, WhatIsGivenBackIsTaken) {
  StartNode([](store::node::NodeOptions* options) {
    options->limits.hello_within = absl::Minutes(10);
    options->limits.lease = absl::Minutes(10);
  });
  const Synthetic encoding = MakeSynthetic(1);
  Push("a", encoding);
  const auto client = Connect();
  const auto lease = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok()) << lease.status();
  store::v1::CloseSessionResponse closed;
  ASSERT_TRUE((*control_)->CloseSession(control_->Context().get(), {}, &closed).ok());
  EXPECT_FALSE((*node_)->idle());
  proto::Request release;
  release.mutable_release()->add_leases(lease->lease());
  EXPECT_TRUE(absl::IsUnauthenticated(client->Ask(release).status()));
  AwaitIdle();
}

// A reader's mappings stay, whatever becomes of its key; so no memory ever holds two namespaces' encodings.
TEST_F(LocalTest, AKeyThatIsTakenAwayLosesItsLeasesAndSeesNoOtherNamespace) {
  const std::string access = directory_.path() + "/access";
  const std::string writer = "writer  writer-key-123456 admin *\n";
  WriteAccessFile(access, writer + "reader  reader-key-123456 read a\n");
  StartNode([&](store::node::NodeOptions* options) {
    options->access_file = access;
    options->limits.hello_within = absl::Minutes(10);
    options->limits.lease = absl::Minutes(10);
    options->engine.dram_bytes = int64_t{8} << 20;
  });
  const Synthetic encoding = MakeSynthetic(1, /*layers=*/4, /*tokens=*/600, /*kv_heads=*/2);
  Push("a", encoding, "writer-key-123456");
  const auto client = Connect("reader-key-123456");
  const auto lease = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ExpectBytes(client.get(), *lease, encoding);
  const ino_t memory = client->memories.at(lease->memories(0))->file();
  WriteAccessFile(access, writer);
  ASSERT_TRUE((*node_)->UseAccess(store::node::AccessList::Load(access)).ok());
  EXPECT_TRUE(client->Closed().ok() || absl::IsUnavailable(client->Closed()));
  AwaitIdle();
  // The namespace goes, and another takes all the memory there is.
  const auto other = Connect("writer-key-123456");
  store::v1::DeleteNamespaceRequest drop;
  drop.set_name("a");
  store::v1::DeleteProgress dropped;
  ASSERT_TRUE((*control_)->DeleteNamespace(control_->Context().get(), drop, &dropped).ok());
  for (int i = 0; i < 20; ++i) {
    const Synthetic next = MakeSynthetic(100 + i, /*layers=*/4, /*tokens=*/600, /*kv_heads=*/2);
    Push("b", next, "writer-key-123456");
    const auto leased = other->Lease("b", next.manifest);
    ASSERT_TRUE(leased.ok()) << leased.status();
    EXPECT_NE(other->memories.at(leased->memories(0))->file(), memory);
    ExpectBytes(other.get(), *leased, next);
    proto::Request release;
    release.mutable_release()->add_leases(leased->lease());
    ASSERT_TRUE(other->Ask(release).ok());
    // Nothing of it appears where the other had read.
    for (int layer = 0; layer < lease->offsets_size(); ++layer) {
      const Slab& slab = next.slabs[layer];
      EXPECT_NE(std::memcmp(client->At(lease->memories(layer), lease->offsets(layer)), slab.data(), slab.size()), 0);
    }
  }
}

TEST_F(LocalTest, LayersAreToldOfAsTheyArrive) {
  StartNode();
  const Synthetic encoding = MakeSynthetic(2, /*layers=*/8, /*tokens=*/600, /*kv_heads=*/2);
  Push("a", encoding);
  const auto client = Connect();
  for (int i = 0; i < 5; ++i) {
    DropTier();
    const auto lease = client->Lease("a", encoding.manifest);
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_EQ(lease->tier(), 2u);
    ExpectBytes(client.get(), *lease, encoding);
    proto::Request release;
    release.mutable_release()->add_leases(lease->lease());
    ASSERT_TRUE(client->Ask(release).ok());
  }
  AwaitIdle();
}

TEST_F(LocalTest, TheGenerationChangesWithThePages) {
  StartNode();
  const Synthetic encoding = MakeSynthetic(3);
  Push("a", encoding);
  const auto client = Connect();
  const auto lease = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok());
  DropTier();  // leased: it stays
  EXPECT_EQ(client->Generation(lease->generation_slot()), lease->generation());
  ExpectBytes(client.get(), *lease, encoding);
  proto::Request release;
  release.mutable_release()->add_leases(lease->lease());
  release.mutable_release()->add_leases(999);
  ASSERT_TRUE(client->Ask(release).ok());
  AwaitIdle();
  DropTier();
  EXPECT_NE(client->Generation(lease->generation_slot()), lease->generation());
}

TEST_F(LocalTest, WhoeverLeasesEverythingLeavesOthersTheirShare) {
  StartNode([](store::node::NodeOptions* options) { options->engine.dram_bytes = int64_t{2} << 20; });
  const auto client = Connect();
  std::vector<proto::Leased> leases;
  std::vector<Synthetic> encodings;
  RawControl control((*node_)->addresses().control);
  ASSERT_TRUE(control.Open().ok());
  RawData data(loopback_.get(), node_->data_address());
  ASSERT_TRUE(data.Hello(control.token()).ok());
  while (true) {
    encodings.push_back(MakeSynthetic(100 + encodings.size(), /*layers=*/2, /*tokens=*/500));
    if (!data.Push("greedy", encodings.back()).ok()) break;
    const auto lease = client->Lease("greedy", encodings.back().manifest);
    ASSERT_TRUE(lease.ok()) << lease.status();
    leases.push_back(*lease);
    ASSERT_LT(leases.size(), 100u);
  }
  const auto taken_back = [&] {
    int count = 0;
    for (const auto& lease : leases) count += client->Generation(lease.generation_slot()) != lease.generation();
    return count;
  };
  EXPECT_EQ(taken_back(), 0);
  // A third of the tier is less than another's share.
  int64_t pushed = 0;
  for (int i = 0; pushed < (2 << 20) / 3; ++i) {
    const Synthetic encoding = MakeSynthetic(500 + i);
    const auto done = data.Push("modest", encoding);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_TRUE(client->Lease("modest", encoding.manifest).ok());
    pushed += encoding.bytes();
  }
  EXPECT_GT(taken_back(), 0);
  EXPECT_LT(taken_back(), static_cast<int>(leases.size()));
  // Encodings that were not taken back are unchanged.
  for (size_t i = 0; i < leases.size(); ++i) {
    if (client->Generation(leases[i].generation_slot()) != leases[i].generation()) continue;
    for (int layer = 0; layer < leases[i].offsets_size(); ++layer) {
      const Slab& slab = encodings[i].slabs[layer];
      const auto* at = client->At(leases[i].memories(layer), leases[i].offsets(layer));
      EXPECT_EQ(std::memcmp(at, slab.data(), slab.size()), 0);
    }
  }
}

TEST_F(LocalTest, LeasesGoWithTheirConnection) {
  StartNode();
  const Synthetic encoding = MakeSynthetic(4);
  Push("a", encoding);
  auto client = Connect();
  const auto lease = client->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok());
  EXPECT_FALSE((*node_)->idle());
  client = nullptr;
  AwaitIdle();
}

TEST_F(LocalTest, ASilentConnectionLosesItsLeases) {
  StartNode([](store::node::NodeOptions* options) { options->limits.lease = absl::Seconds(3); });
  const Synthetic encoding = MakeSynthetic(5);
  Push("a", encoding);
  const auto client = Connect(), silent = Connect();
  const auto lease = client->Lease("a", encoding.manifest), lost = silent->Lease("a", encoding.manifest);
  ASSERT_TRUE(lease.ok() && lost.ok());
  const absl::Time begin = SteadyNow();
  while (SteadyNow() < begin + absl::Seconds(5)) {
    proto::Request renew;
    renew.mutable_renew();
    ASSERT_TRUE(client->Ask(renew).ok());
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_FALSE(silent->Closed().ok());
  EXPECT_FALSE((*node_)->idle());  // the other's
  EXPECT_EQ(client->Generation(lease->generation_slot()), lease->generation());
}

TEST_F(LocalTest, MemoryIsSharedByRights) {
  WriteAccessFile(directory_.path() + "/access", "reader reader-key-123456 read a\nwriter writer-key-123456 write *\n");
  StartNode([this](store::node::NodeOptions* options) { options->access_file = directory_.path() + "/access"; });
  const Synthetic encoding = MakeSynthetic(6);
  Push("a", encoding, "writer-key-123456");
  Push("b", encoding, "writer-key-123456");
  const auto reader = Connect("reader-key-123456");
  EXPECT_TRUE(reader->Lease("a", encoding.manifest).ok());
  EXPECT_EQ(reader->Lease("b", encoding.manifest).status().code(), absl::StatusCode::kPermissionDenied);
  for (const auto& [number, name] : reader->names) EXPECT_NE(name, "b");
  EXPECT_EQ(Connect("writer-key-123456")->Hello("x").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalTest, WhatALocalConnectionCannotDo) {
  StartNode([](store::node::NodeOptions* options) { options->limits.leases_per_connection = 2; });
  const Synthetic encoding = MakeSynthetic(7);
  Push("a", encoding);
  const auto client = Connect();
  EXPECT_EQ(client->Lease("a", MakeSynthetic(8).manifest).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(client->Lease("a", encoding.manifest).ok());
  EXPECT_TRUE(client->Lease("a", encoding.manifest).ok());
  EXPECT_EQ(client->Lease("a", encoding.manifest).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(client->Ask(RawData::PullOf("a", encoding.manifest, 1, 2)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(client->Ask(RawData::PushBegin("a", MakeSynthetic(9))).status().code(),
            absl::StatusCode::kFailedPrecondition);
  LocalClient stranger(local_.get(), socket());
  EXPECT_EQ(stranger.Lease("a", encoding.manifest).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(stranger.memories.empty());
}

// A socket to the node, spoken to by hand. Negative: not connected.
Descriptor RawSocket(const std::string& path) {
  Descriptor made(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const absl::Time limit = Patience();
  while (connect(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno != EAGAIN || SteadyNow() > limit) return Descriptor();
    absl::SleepFor(absl::Milliseconds(1));
  }
  return made;
}

// Whoever says nothing takes nobody's place: not those of readers, and not those of other carriers.
TEST_F(LocalTest, ACrowdThatSaysNothingShutsNobodyOut) {
  const int64_t room = RaiseDescriptorLimit() / 2 - 500;
  StartNode();
  Push("a", MakeSynthetic(1));
  const auto before = Connect();
  const int count = static_cast<int>(std::min<int64_t>(Soak() ? 10000 : 600, room));
  const int64_t resident = ResidentBytes();
  std::vector<Descriptor> crowd;
  absl::Duration slowest;
  for (int i = 0; i < count; ++i) {
    crowd.push_back(RawSocket(socket()));
    ASSERT_GE(crowd.back().get(), 0) << i;
    if (i % 50 != 0) continue;
    const absl::Time begun = SteadyNow();
    EXPECT_TRUE(before->Lease("a", MakeSynthetic(1).manifest).ok());
    EXPECT_TRUE(Connect()->Lease("a", MakeSynthetic(1).manifest).ok());
    slowest = std::max(slowest, SteadyNow() - begun);
  }
  std::printf("%d silent sockets: the slowest of a new reader and its lease %lld ms, %lld KiB\n", count,
              static_cast<long long>(absl::ToInt64Milliseconds(slowest)),
              static_cast<long long>((ResidentBytes() - resident) >> 10));
  EXPECT_LT(ResidentBytes() - resident, int64_t{128} << 20);
  Push("a", MakeSynthetic(2));  // over another carrier
}

// A client that asks all it can and reads nothing: the frames of docs/formats.md by hand.
class DeafClient {
 public:
  DeafClient(const std::string& path, const std::string& token) : socket_(RawSocket(path)) {
    Send(transport::FrameKind::kHello, transport::HelloBody({1234567, 3600000}), 0);
    pollfd ready = {socket_.get(), POLLIN, 0};
    if (poll(&ready, 1, 60000) != 1) return;
    char bytes[256];
    const ssize_t got = recv(socket_.get(), bytes, sizeof(bytes), 0);
    const auto frame = transport::ParseFrame({bytes, static_cast<size_t>(std::max<ssize_t>(got, 0))});
    if (!frame.ok()) return;
    peer_ = transport::ParseHello(frame->body).token;
    proto::Request hello;
    hello.set_id(1);
    hello.mutable_hello()->set_token(token);
    said_hello_ = Send(transport::FrameKind::kMessage, SerializeRequest(hello), peer_);
  }
  bool said_hello() const { return said_hello_; }
  // Lookups with large answers, until the node takes no more of them. Returns how many.
  int AskAllItCan(int most) {
    int asked = 0;
    for (; asked < most; ++asked) {
      proto::Request request;
      request.set_id(static_cast<uint64_t>(2 + asked));
      request.set_ns("a");
      request.set_remaining_ms(60000);
      request.mutable_lookup()->set_codec(static_cast<uint32_t>(Codec::kRawBf16));
      request.mutable_lookup()->mutable_identities()->assign(1024 * sizeof(Identity::bytes), 'x');
      int tries = 0;
      while (!Send(transport::FrameKind::kMessage, SerializeRequest(request), peer_)) {
        if (errno != EAGAIN || ++tries > 20) return asked;
        absl::SleepFor(absl::Milliseconds(1));
      }
    }
    return asked;
  }

 private:
  bool Send(transport::FrameKind kind, const std::string& body, uint64_t token) {
    const std::string frame = transport::FrameHeader(kind, sequence_, token, body.size()) + body;
    if (send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(frame.size())) {
      return false;
    }
    ++sequence_;
    return true;
  }
  const Descriptor socket_;
  uint32_t sequence_ = 0;
  uint64_t peer_ = 0;
  bool said_hello_ = false;
};

// Answers not taken are bounded for each client, and for all together; further requests wait outside.
TEST_F(LocalTest, AnswersThatNobodyTakesAreBounded) {
  StartNode([](store::node::NodeOptions* options) { options->limits.answer_bytes = int64_t{16} << 20; });
  Push("a", MakeSynthetic(1));
  const auto reader = Connect();
  const int count = Soak() ? 200 : 40;
  const int64_t resident = ResidentBytes();
  std::vector<std::unique_ptr<DeafClient>> deaf;
  int asked = 0, stopped = 0;
  for (int i = 0; i < count; ++i) {
    deaf.push_back(std::make_unique<DeafClient>(socket(), control_->token()));
    ASSERT_TRUE(deaf.back()->said_hello()) << i;
    const int mine = deaf.back()->AskAllItCan(400);  // 16 MiB of answers
    asked += mine;
    if (mine < 400) ++stopped;
  }
  const int64_t grown = ResidentBytes() - resident;
  std::printf("%d clients that read nothing: %d requests taken, %lld MiB\n", count, asked,
              static_cast<long long>(grown >> 20));
  EXPECT_GT(stopped, count / 2);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what is freed
  EXPECT_LT(grown, int64_t{128} << 20);
#endif
  EXPECT_TRUE(reader->Lease("a", MakeSynthetic(1).manifest).ok());
}

}  // namespace
}  // namespace kvlink::testing
