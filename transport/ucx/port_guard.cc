// Descriptors are checked in slices, so that a node with thousands of connections is not held up. By the time it is
// acted on, a descriptor may refer to another socket, so it is checked again while UCX stands still.
#include "transport/ucx/port_guard.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/descriptor_limit.h"
#include "transport/address.h"

namespace kvlink::transport {
namespace {

// Descriptors checked per slice, at about 2 us each: few, because messages wait meanwhile.
constexpr size_t kSlice = 32;
constexpr absl::Duration kBetweenSlices = absl::Milliseconds(2);
// Connections are let in at one per millisecond, as at the other listeners, with bursts of up to this many.
constexpr int64_t kBucket = 256;
constexpr absl::Duration kDrain = absl::Milliseconds(1), kWhileShut = absl::Milliseconds(10);
// Connections between UCX workers begin with a magic number of 8 bytes.
constexpr uint64_t kFirstBytes = 8;
// A UCX message at a listener: a length, a status, padding, and a body of up to 2 KiB.
constexpr int kLengthBytes = 8, kMaxMessage = 2048;
// The body of the first message, from byte 16 on, begins with the number of the peer's endpoint, followed by the
// version and kind of the rest, which are the same for all our clients (context.cc pins the version). UCX aborts the
// process on kinds it does not know.
constexpr int kStatus = 8, kMessageBegin = 16, kKind = 24, kMessageHead = 27;
constexpr uint32_t kOurKind = 0x0102;  // version 1; errors are reported to the peer; an address is included

std::vector<int> Descriptors() {
  std::vector<int> open;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), closedir);
  if (directory == nullptr) return open;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] != '.') open.push_back(std::atoi(entry->d_name));
  }
  return open;
}

int Option(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof(value);
  return getsockopt(fd, level, name, &value, &length) == 0 ? value : 0;
}

uint16_t LocalPort(int fd) {
  SocketAddress address;
  address.length = sizeof(address.storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0) return 0;
  const int family = address.get()->sa_family;
  return family == AF_INET || family == AF_INET6 ? address.ToAddress().port : 0;
}

uint64_t BytesReceived(int fd) {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 ? info.tcpi_bytes_received : kFirstBytes;
}

// Passes segments without data, and segments that begin with a length (little-endian, 8 bytes) of up to 2 KiB, or with
// as much of one as they hold, and contain no more than that message; UCX aborts the process if more arrives. If a
// message head follows, it must be one of ours. The filter sees each segment separately, from its TCP header on.
bool Filter(int fd) {
  constexpr int kRest = 32, kPass = 49, kDrop = 50;
  constexpr int kHeader = 0, kHighByte = 1;  // cells of the filter's scratch memory
  const auto op = [](uint16_t code, uint32_t k) { return sock_filter{code, 0, 0, k}; };
  // Jumps from the instruction at `here` to the one at `yes` or `no`.
  const auto jump = [](int here, uint16_t test, uint32_t k, int yes, int no) {
    return sock_filter{static_cast<uint16_t>(BPF_JMP | test), static_cast<uint8_t>(yes - here - 1),
                       static_cast<uint8_t>(no - here - 1), k};
  };
  std::array<sock_filter, 51> program = {
      op(BPF_LD | BPF_B | BPF_ABS, 12),  // data offset in words, in the upper four bits
      op(BPF_ALU | BPF_RSH | BPF_K, 2),
      op(BPF_ALU | BPF_AND | BPF_K, 0x3c),
      op(BPF_ST, kHeader),
      op(BPF_MISC | BPF_TAX, 0),
      op(BPF_LD | BPF_W | BPF_LEN, 0),
      op(BPF_ALU | BPF_SUB | BPF_X, 0),
      jump(7, BPF_JGE | BPF_K, 2, 8, kPass),          // at most one byte of data: may be anything
      jump(8, BPF_JGE | BPF_K, kLengthBytes, 9, 13),  // shorter than the length: its second byte suffices
      op(BPF_LD | BPF_W | BPF_IND, 4),                // bytes 4 to 7 of the length
      jump(10, BPF_JEQ | BPF_K, 0, 11, kDrop),
      op(BPF_LD | BPF_H | BPF_IND, 2),  // bytes 2 and 3
      jump(12, BPF_JEQ | BPF_K, 0, 13, kDrop),
      op(BPF_LD | BPF_B | BPF_IND, 1),  // byte 1
      jump(14, BPF_JGE | BPF_K, kMaxMessage >> 8, kDrop, 15),
      op(BPF_ALU | BPF_LSH | BPF_K, 8),
      op(BPF_ST, kHighByte),
      op(BPF_LD | BPF_B | BPF_IND, 0),  // byte 0
      op(BPF_ALU | BPF_ADD | BPF_X, 0),
      op(BPF_LDX | BPF_W | BPF_MEM, kHighByte),
      op(BPF_ALU | BPF_ADD | BPF_X, 0),
      op(BPF_ALU | BPF_ADD | BPF_K, kMessageBegin),
      op(BPF_MISC | BPF_TAX, 0),  // where the message ends, relative to the TCP header
      op(BPF_LD | BPF_W | BPF_LEN, 0),
      jump(24, BPF_JGT | BPF_X, 0, kRest, 25),
      op(BPF_LDX | BPF_W | BPF_MEM, kHeader),
      op(BPF_ALU | BPF_SUB | BPF_X, 0),
      jump(27, BPF_JGE | BPF_K, kMessageHead, 28, kPass),
      op(BPF_LD | BPF_B | BPF_IND, kStatus),
      jump(29, BPF_JEQ | BPF_K, 0, 30, kDrop),
      op(BPF_LD | BPF_H | BPF_IND, kKind),
      jump(31, BPF_JEQ | BPF_K, kOurKind, kPass, kDrop),
      // More than the length says. If the length is 0, this may be the rest of a message whose first 1 to 7 bytes came
      // in an earlier segment; its kind then lies that much earlier.
      op(BPF_LDX | BPF_W | BPF_MEM, kHeader),
      op(BPF_LD | BPF_H | BPF_IND, 0),
      jump(34, BPF_JEQ | BPF_K, 0, 35, kDrop),
  };
  for (int before = 1; before < kLengthBytes; ++before) {
    const int at = kRest + 1 + 2 * before;
    program[at] = op(BPF_LD | BPF_H | BPF_IND, kKind - before);
    program[at + 1] = jump(at + 1, BPF_JEQ | BPF_K, kOurKind, kPass, before + 1 < kLengthBytes ? at + 2 : kDrop);
  }
  program[kPass] = op(BPF_RET | BPF_K, 0xffffffff);
  program[kDrop] = op(BPF_RET | BPF_K, 0);
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0;
}

}  // namespace

// Strangers may use part of the process's descriptors.
PortGuard::PortGuard(Hooks hooks)
    : hooks_(std::move(hooks)),
      max_strangers_(std::clamp(DescriptorLimit() / 8, int64_t{16}, kMaxStrangers)),
      room_(max_strangers_) {}

std::set<int> PortGuard::Listening() {
  std::set<int> listening;
  for (const int fd : Descriptors()) {
    if (Option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0 && LocalPort(fd) != 0) listening.insert(fd);
  }
  return listening;
}

void PortGuard::AddInterface(int fd) { ports_.emplace(LocalPort(fd), false); }

absl::Status PortGuard::AddListener(int fd) {
  ports_[LocalPort(fd)] = true;
  if (!Filter(fd)) return absl::UnavailableError("the port cannot be kept for peers that speak UCX: no socket filter");
  const int64_t admitted = std::min(BucketOf(gates_.size() + 1), room_);
  auto gate = ListenerGate::Make(fd, admitted);
  if (gate == nullptr) return absl::UnavailableError("the port cannot be kept from crowds: no descriptor");
  room_ -= admitted;
  admitted_ += admitted;
  gates_.push_back(std::move(gate));
  return absl::OkStatus();
}

std::string PortGuard::StrangerAt(int fd) const {
  const auto port = ports_.find(LocalPort(fd));
  if (port == ports_.end() || Option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0) return "";
  SocketAddress peer;
  peer.length = sizeof(peer.storage);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer.storage), &peer.length) != 0) return "";
  std::string name = peer.ToAddress().ToString();
  const bool is_known = port->second ? hooks_.known(name) : BytesReceived(fd) >= kFirstBytes;
  return is_known ? "" : name;
}

// The length has arrived and is valid, so UCX reads no more than that, whatever it contains. The filter cannot know and
// drops continuation segments; the peer's TCP sends them again.
void PortGuard::LetTheRestIn(int fd) {
  const int unused = 0;
  strangers_[fd].began = setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof(unused)) == 0 || errno == ENOENT;
}

bool PortGuard::Remove(int fd) {
  bool& shut = strangers_[fd].shut;
  if (!std::exchange(shut, true)) return shutdown(fd, SHUT_RDWR) == 0;  // UCX sees the end and closes it
  // UCX has stopped reading it, but still sees an error.
  const sockaddr none = {AF_UNSPEC, {}};
  if (ports_.at(LocalPort(fd))) connect(fd, &none, sizeof(none));
  return false;
}

absl::Time PortGuard::Look(absl::Time now, int64_t* closed) {
  if (ports_.empty()) return absl::InfiniteFuture();
  absl::Time next = round_began_ + kBetweenRounds;
  if (!to_look_at_.empty() || now >= next) {
    if (to_look_at_.empty()) {
      round_began_ = now;
      ++round_;
      taken_before_ = admitted_ - Left();
      to_look_at_ = Descriptors();
    }
    if (LookAtSome(now, closed)) {
      next = now + kBetweenSlices;
    } else {
      EndRound();
      next = round_began_ + kBetweenRounds;
    }
  }
  return Admit(now) ? std::min(next, now + kWhileShut) : next;
}

bool PortGuard::LookAtSome(absl::Time now, int64_t* closed) {
  std::vector<std::pair<int, std::string>> due, began;
  for (size_t i = 0; i < kSlice && !to_look_at_.empty(); ++i) {
    const int fd = to_look_at_.back();
    to_look_at_.pop_back();
    std::string peer = StrangerAt(fd);
    if (peer.empty()) continue;
    Stranger& stranger = strangers_[fd];
    if (stranger.peer != peer) stranger = {peer, now};
    stranger.round = round_;
    if (!stranger.began && BytesReceived(fd) >= kLengthBytes) began.emplace_back(fd, peer);
    const bool crowded = static_cast<int64_t>(strangers_.size()) > std::min(kManyStrangers, max_strangers_ / 4);
    if (now - stranger.since >= (crowded ? kBetweenRounds : kGrace)) {
      due.emplace_back(fd, std::move(peer));
    }
  }
  if (!due.empty() || !began.empty()) {
    hooks_.still([&] {
      for (const auto& [fd, peer] : began) {
        if (StrangerAt(fd) == peer) LetTheRestIn(fd);
      }
      for (const auto& [fd, peer] : due) {
        if (StrangerAt(fd) == peer && Remove(fd)) ++*closed;
      }
    });
    for (const auto& [fd, peer] : due) strangers_[fd].since = now;
  }
  return !to_look_at_.empty();
}

void PortGuard::EndRound() {
  std::erase_if(strangers_, [this](const auto& entry) { return entry.second.round != round_; });
  // Connections accepted since the round began have not been checked, so they count as strangers, as do those still
  // admitted.
  room_ = max_strangers_ - static_cast<int64_t>(strangers_.size()) - (admitted_ - taken_before_);
}

// Connections still admitted count as strangers; all gates together reserve no more than half of the limit for them.
int64_t PortGuard::BucketOf(size_t gates) const {
  return std::clamp(max_strangers_ / (2 * static_cast<int64_t>(gates)), int64_t{1}, kBucket);
}

int64_t PortGuard::Left() const {
  int64_t left = 0;
  for (const auto& gate : gates_) left += gate->left();
  return left;
}

bool PortGuard::Admit(absl::Time now) {
  if (now - drained_ >= kDrain) {
    const int64_t drained = drained_ == absl::InfinitePast() ? 0 : (now - drained_) / kDrain;
    bucket_ = std::min(kBucket, bucket_ + drained);
    drained_ = now;
  }
  bool shut = false;
  for (const auto& gate : gates_) {
    const int64_t left = gate->left();
    if (left == 0) shut = true;
    const int64_t admitted = std::min({BucketOf(gates_.size()) - left, bucket_, room_});
    if (admitted <= 0) continue;
    gate->Admit(admitted);
    bucket_ -= admitted;
    room_ -= admitted;
    admitted_ += admitted;
  }
  return shut;
}

}  // namespace kvlink::transport
