// The other process of transport_death_test and transport_local_test: connects over the carrier and to the address in
// its arguments, and does what messages say ("receive FIRST COUNT BYTES", "send FIRST COUNT BYTES"; it answers "ready")
// until the connection ends or it is killed. "CARRIER listen ADDRESS": listens, says where, and sends messages back.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/transport/peers.h"

namespace kvlink::testing {
namespace {

std::unique_ptr<transport::Transport> Named(const std::string& carrier) {
  for (const Carrier known : {Carrier::kUcx, Carrier::kGrpc, Carrier::kLocal}) {
    if (carrier == CarrierName(known)) return NewTransport(known);
  }
  return nullptr;
}

int Listen(const std::string& carrier, const std::string& address) {
  const auto transport = Named(carrier);
  if (transport == nullptr) return 2;
  Server server(transport.get(), address);
  std::printf("%s\n", server.address().c_str());
  std::fflush(stdout);
  for (;;) {
    const Server::Accepted accepted = server.Next();
    if (accepted.connection == nullptr) continue;
    while (const auto message = accepted.inbox->Next()) {
      if (!accepted.connection->SendMessage(*message).ok()) break;
    }
  }
}

int Main(const std::string& carrier, const std::string& address) {
  const auto transport = Named(carrier);
  if (transport == nullptr) return 2;
  const auto inbox = std::make_shared<Inbox>();
  auto connection = transport->Connect(address, inbox, Patience());
  if (!connection.ok()) {
    std::fprintf(stderr, "%s\n", connection.status().ToString().c_str());
    return 1;
  }
  std::vector<std::shared_ptr<transport::RegisteredBuffer>> buffers;
  while (const auto message = inbox->Next()) {
    const std::vector<std::string> words = absl::StrSplit(*message, ' ');
    uint64_t first = 0;
    int64_t count = 0, bytes = 0;
    if (words.size() != 4 || !absl::SimpleAtoi(words[1], &first) || !absl::SimpleAtoi(words[2], &count) ||
        !absl::SimpleAtoi(words[3], &bytes)) {
      return 2;
    }
    auto buffer = transport->Allocate(count * bytes);
    if (!buffer.ok()) return 3;
    buffers.push_back(*buffer);
    for (int64_t i = 0; i < count; ++i) {
      const transport::Slice slice{*buffer, i * bytes, bytes};
      const uint64_t id = first + static_cast<uint64_t>(i);
      if (words[0] == "send") {
        Fill(slice, id);
        (*connection)->Send(id, slice, absl::InfiniteFuture(), [](const absl::Status&) {});
      } else {
        (*connection)->PostReceive(id, slice, absl::InfiniteFuture(), [](const absl::Status&, int64_t) {});
      }
    }
    if (!(*connection)->SendMessage("ready").ok()) break;
  }
  connection->reset();
  return 0;
}

}  // namespace
}  // namespace kvlink::testing

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[2]) == "listen") return kvlink::testing::Listen(argv[1], argv[3]);
  return argc == 3 ? kvlink::testing::Main(argv[1], argv[2]) : 2;
}
