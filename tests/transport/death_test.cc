// Peers that freeze (SIGSTOP) and die (SIGKILL): another process, over each carrier of payloads between processes.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"
#include "tests/transport/peers.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

constexpr int64_t kSlab = kSanitized ? 4 << 20 : 8 << 20;
constexpr int kSlabs = 24;

// A child process and the connection that it made.
struct Child {
  Child(Carrier carrier, Server* server) : process({PeerProgram(), CarrierName(carrier), server->address()}) {
    Server::Accepted taken = server->Next();
    connection = std::move(taken.connection);
    inbox = std::move(taken.inbox);
    EXPECT_NE(connection, nullptr) << process.errors();
  }
  static std::string PeerProgram() {
    return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "transport_peer_process").string();
  }
  Subprocess process;
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Inbox> inbox;
};

// One transfer of slabs in either direction, watched.
struct Transfer {
  Transfer(Transport* transport, Child& child, bool receive, uint64_t first, int slabs = kSlabs)
      : connection(child.connection), inbox(child.inbox), receive(receive), first(first), slabs(slabs) {
    auto allocated = transport->Allocate(slabs * kSlab);
    EXPECT_TRUE(allocated.ok()) << allocated.status();
    buffer = *allocated;
    for (int i = 0; i < slabs; ++i) slices.emplace_back(buffer, i * kSlab, kSlab);
    completions.resize(slabs);
    in_quarantine.resize(slabs);
    EXPECT_TRUE(
        connection->SendMessage(absl::StrCat(receive ? "send " : "receive ", first, " ", slabs, " ", kSlab)).ok());
    EXPECT_EQ(inbox->Next(), "ready") << child.process.errors();
  }
  // Callbacks use this object.
  ~Transfer() {
    connection->Close();
    if (!started) return;
    for (const Completion& completion : completions) completion.Wait().IgnoreError();
  }
  void Start(absl::Time deadline) {
    started = true;
    for (int i = 0; i < slabs; ++i) {
      const auto seen = [this, i](const absl::Status& status) {
        if (absl::IsDeadlineExceeded(status)) {
          in_quarantine[i] = !slices[i].free();
          EXPECT_FALSE(inbox->closed());  // the deadline does not wait for the end of the connection
        }
      };
      if (receive) {
        connection->PostReceive(first + i, slices[i].Take(), deadline,
                                [seen, done = completions[i].ForReceive()](const absl::Status& status, int64_t bytes) {
                                  seen(status);
                                  done(status, bytes);
                                });
      } else {
        connection->Send(first + i, slices[i].Take(), deadline,
                         [seen, done = completions[i].ForSend()](const absl::Status& status) {
                           seen(status);
                           done(status);
                         });
      }
    }
  }
  // Waits for all. How many ended with `code`; the others must have ended well, and arrived right.
  int Count(absl::StatusCode code) {
    int count = 0;
    for (int i = 0; i < slabs; ++i) {
      const absl::Status status = completions[i].Wait();
      count += status.code() == code;
      EXPECT_TRUE(status.ok() || status.code() == code) << status;
      EXPECT_TRUE(!receive || !status.ok() || Check({buffer, i * kSlab, kSlab}, first + i)) << i;
    }
    return count;
  }
  bool AllFree() const {
    bool free = true;
    for (const auto& slice : slices) free = free && slice.WaitFree();
    return free;
  }

  const std::shared_ptr<Connection> connection;
  const std::shared_ptr<Inbox> inbox;
  const bool receive;
  const uint64_t first;
  const int slabs;
  bool started = false;
  std::shared_ptr<RegisteredBuffer> buffer;
  std::vector<WatchedSlice> slices;
  std::vector<Completion> completions;
  std::vector<char> in_quarantine;
};

class DeathTest : public ::testing::TestWithParam<std::tuple<Carrier, bool>> {
 protected:
  DeathTest() : transport_(NewTransport(carrier())), server_(transport_.get()) {}
  Carrier carrier() const { return std::get<0>(GetParam()); }
  bool receive() const { return std::get<1>(GetParam()); }
  int64_t ClosedForSilence() const {
    auto closes = transport_->Stats().closes;
    // gRPC has a keepalive of its own, which may be first.
    return closes["quarantine"] + closes["heartbeat"] + (carrier() == Carrier::kGrpc ? closes["network"] : 0);
  }
  std::unique_ptr<Transport> transport_;
  Server server_;
};

// The deadline comes in time, what the network was at stays in quarantine, and comes back when the connection is ended
// for it; a peer that goes on then writes nothing any more.
TEST_P(DeathTest, DeadlineWithAFrozenPeer) {
  int in_quarantine = 0;
  for (int attempt = 0; attempt < 20 && in_quarantine == 0; ++attempt) {
    Child child(carrier(), &server_);
    Transfer transfer(transport_.get(), child, receive(), 100);
    const int64_t closed_before = ClosedForSilence();
    transfer.Start(SteadyNow() + absl::Seconds(1));
    transfer.completions[0].Wait().IgnoreError();
    child.process.Signal(SIGSTOP);
    const int late = transfer.Count(absl::StatusCode::kDeadlineExceeded);
    for (const char quarantined : transfer.in_quarantine) in_quarantine += quarantined;
    if (in_quarantine == 0) continue;  // all had arrived already, or nothing was under way
    EXPECT_GE(late, in_quarantine);
    EXPECT_EQ(child.inbox->Closed().code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(transfer.AllFree());
    EXPECT_EQ(transport_->Stats().quarantined_bytes, 0);
    EXPECT_GT(ClosedForSilence(), closed_before);
    Fill({transfer.buffer, 0, transfer.buffer->size()}, 7);
    child.process.Signal(SIGCONT);
    EXPECT_EQ(child.process.Wait(), 0) << child.process.errors();
    EXPECT_TRUE(Check({transfer.buffer, 0, transfer.buffer->size()}, 7));
  }
  EXPECT_GT(in_quarantine, 0) << "no transfer was caught in the middle";
}

TEST_P(DeathTest, HeartbeatFindsAFrozenPeer) {
  Child child(carrier(), &server_);
  Transfer transfer(transport_.get(), child, receive(), 100);
  transfer.Start(absl::InfiniteFuture());
  ASSERT_TRUE(transfer.completions[0].Wait().ok());
  child.process.Signal(SIGSTOP);
  Completion waiting;  // where all had been transferred
  auto buffer = transport_->Allocate(4096);
  child.connection->PostReceive(1, {*buffer, 0, 4096}, absl::InfiniteFuture(), waiting.ForReceive());
  EXPECT_EQ(waiting.Wait().code(), absl::StatusCode::kUnavailable);
  transfer.Count(absl::StatusCode::kUnavailable);
  EXPECT_TRUE(transfer.AllFree());
  EXPECT_EQ(ClosedForSilence(), 1);
}

TEST_P(DeathTest, AShortFreezeIsSurvived) {
  Child child(carrier(), &server_);
  Transfer transfer(transport_.get(), child, receive(), 100);
  transfer.Start(Patience());
  child.process.Signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  child.process.Signal(SIGCONT);
  EXPECT_EQ(transfer.Count(absl::StatusCode::kOk), kSlabs);
  EXPECT_TRUE(transfer.AllFree());
}

TEST_P(DeathTest, KilledPeer) {
  Child child(carrier(), &server_);
  Transfer transfer(transport_.get(), child, receive(), 100);
  transfer.Start(absl::InfiniteFuture());
  ASSERT_TRUE(transfer.completions[0].Wait().ok());
  child.process.Kill();
  transfer.Count(absl::StatusCode::kUnavailable);
  EXPECT_TRUE(transfer.AllFree());
  EXPECT_EQ(child.inbox->Closed().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(child.inbox->closings(), 1);
  EXPECT_EQ(transport_->Stats().quarantined_bytes, 0);
}

// Resident memory without the holes of the heap.
int64_t Held() {
  malloc_trim(0);
  return ResidentBytes(getpid());
}

TEST_P(DeathTest, CyclesOfKilledPeersLeaveNothingBehind) {
  const int cycles = Soak() ? 1000 : kSanitized ? 4 : 12;
  const int settled = cycles / 2;
  std::mt19937_64 random(TestSeed());
  int64_t descriptors = 0;
  int64_t resident = 0;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    if (cycle == settled) {
      descriptors = OpenDescriptors(getpid());
      resident = Held();
    }
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    Child child(carrier(), &server_);
    Transfer transfer(transport_.get(), child, receive(), 100, 4);
    transfer.Start(Patience());
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    child.process.Kill();
    transfer.Count(absl::StatusCode::kUnavailable);
    ASSERT_TRUE(transfer.AllFree());
    EXPECT_EQ(child.inbox->Closed().code(), absl::StatusCode::kUnavailable);
  }
  while (transport_->Stats().connections > 0) absl::SleepFor(absl::Milliseconds(1));
  // gRPC closes a socket somewhat later than the connection over it.
  for (const absl::Time limit = Patience(); OpenDescriptors(getpid()) > descriptors && SteadyNow() < limit;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const int64_t grown = Held() - resident;
  std::printf("%d cycles: %lld descriptors, %lld KiB resident more than at half the way\n", cycles,
              static_cast<long long>(OpenDescriptors(getpid()) - descriptors), static_cast<long long>(grown >> 10));
  EXPECT_LE(OpenDescriptors(getpid()), descriptors);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(grown, kSlab);
#endif
}

INSTANTIATE_TEST_SUITE_P(Carriers, DeathTest,
                         ::testing::Combine(::testing::Values(Carrier::kUcx, Carrier::kGrpc), ::testing::Bool()),
                         [](const auto& info) {
                           return CarrierName(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "Receiving" : "Sending");
                         });

}  // namespace
}  // namespace kvlink::transport
