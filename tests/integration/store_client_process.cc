// A client of a store node, which tests kill and freeze: makes calls (traffic.h) until its standard input ends.
//
//   store_client_process ADDRESS CARRIER JOURNAL SEED FIRST ROLE
//
// ROLE: "push" and "pull" write and read without end; "hold" keeps leases on encodings of the journal and compares
// their bytes repeatedly. Prints "ready" when a first call has succeeded, and counts of its calls at the end. Status 1,
// with a line on standard error, if a promise was broken.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "tests/integration/node_clients.h"

namespace kvlink::testing {
namespace {

constexpr size_t kHeld = 4;

bool InputEnded() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  char byte = 0;
  return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) == 0;
}

// Holds leases on encodings, and uses their bytes as long as the leases are intact.
class Holder {
 public:
  Holder(store::Store* store, Journal* journal, uint64_t seed)
      : store_(store), known_(journal->known()), random_(seed), held_(kHeld) {}

  // Uses one layer of a random lease, or takes a lease if that place is empty. An error means a broken promise.
  absl::Status Step() {
    Held& held = held_[random_() % held_.size()];
    if (held.lease == nullptr) return Take(&held);
    const size_t layer = random_() % held.encoding->slabs.size();
    const absl::Status used =
        CompareLayer(held.lease.get(), *held.encoding, layer, SteadyNow() + TrafficOptions().deadline);
    if (absl::IsInternal(used) || absl::IsDataLoss(used)) {
      return Annotate(used, absl::StrCat("encoding ", held.encoding->tokens[0]));
    }
    counts_.Add(used.ok() ? "used" : "lapsed");
    if (!used.ok() || random_() % 256 == 0) held.lease = nullptr;
    return absl::OkStatus();
  }
  bool full() const {
    size_t full = 0;
    for (const Held& held : held_) full += held.lease != nullptr;
    return full == held_.size();
  }
  const TrafficCounts& counts() const { return counts_; }

 private:
  struct Held {
    std::shared_ptr<const Synthetic> encoding;
    std::unique_ptr<store::Lease> lease;
  };

  absl::Status Take(Held* held) {
    held->encoding = EncodingOf(known_[random_() % known_.size()]);
    const Manifest& manifest = held->encoding->manifest;
    auto lease = store_->Read(kTrafficNamespace, manifest.identity, manifest.codec, manifest.etag,
                              SteadyNow() + TrafficOptions().deadline);
    if (lease.ok()) {
      held->lease = *std::move(lease);
      return absl::OkStatus();
    }
    counts_.Add(absl::StrCat("lease ", absl::StatusCodeToString(lease.status().code())));
    if (absl::IsNotFound(lease.status()) || absl::IsDataLoss(lease.status())) return lease.status();
    absl::SleepFor(absl::Milliseconds(2));
    return absl::OkStatus();
  }

  store::Store* const store_;
  const std::vector<uint64_t> known_;
  std::mt19937_64 random_;
  std::vector<Held> held_;
  TrafficCounts counts_;
};

template <typename Client>
absl::Status RunUntilInputEnds(Client* client, const TrafficCounts& counts, const std::function<bool()>& ready) {
  bool said = false;
  while (!InputEnded()) {
    KVLINK_RETURN_IF_ERROR(client->Step());
    if (said || !ready()) continue;
    said = true;
    std::puts("ready");
    std::fflush(stdout);
  }
  std::puts(counts.Text().c_str());
  return absl::OkStatus();
}

absl::Status Main(const std::vector<std::string>& words) {
  uint64_t seed = 0, first = 0;
  if (words.size() != 6 || !absl::SimpleAtoi(words[3], &seed) || !absl::SimpleAtoi(words[4], &first)) {
    return absl::InvalidArgumentError("arguments: ADDRESS CARRIER JOURNAL SEED FIRST push|pull|hold");
  }
  Journal journal(words[2]);
  KVLINK_ASSIGN_OR_RETURN(const auto store, store::client::OpenRemote(ClientOptions(words[0], words[1])));
  if (words[5] == "hold") {
    Holder holder(store.get(), &journal, seed);
    return RunUntilInputEnds(&holder, holder.counts(), [&] { return holder.full(); });
  }
  TrafficCounts counts;
  TrafficOptions options;
  options.seed = seed;
  options.first = first;
  options.writes = words[5] == "push" ? 1 : 0;
  options.large_only = true;
  options.recycle = words[5] == "push" ? 6 : 0;
  Traffic traffic(store.get(), &journal, &counts, options);
  return RunUntilInputEnds(&traffic, counts, [&] { return counts.of("write ok") + counts.of("read ok") > 0; });
}

}  // namespace
}  // namespace kvlink::testing

int main(int argc, char** argv) {
  const absl::Status status = kvlink::testing::Main({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
