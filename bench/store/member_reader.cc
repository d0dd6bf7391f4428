// Both processes read the same steady clock, so the one tells the other when a read was due and what it took. A record
// is written by one call of write(), so that the file never ends within one.
#include "bench/store/member_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "bench/bench_common.h"
#include "store/cluster/replicas/replicated.h"

namespace kvlink::bench::members {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(5);

absl::Status ReadOne(store::Store* store, const std::string& ns, const Identity& identity) {
  const absl::Time deadline = SteadyNow() + absl::Seconds(10);
  const auto found = store->Lookup(ns, {identity}, Codec::kRawBf16);
  if (!found.ok()) return found.status();
  if (!found->front().present) return absl::NotFoundError("a miss");
  const auto lease = store->Read(ns, identity, Codec::kRawBf16, found->front().etag, deadline);
  absl::Status read = lease.status();
  for (int64_t layer = 0; layer < kLayers && read.ok(); ++layer) read = (*lease)->WaitLayer(layer, deadline);
  return read;
}

}  // namespace

Reader::Reader(const std::string& endpoints, int documents, const std::string& scratch)
    : path_(scratch + "/reads"),
      process_(Must(ServingProcess::Start(
          {"/proc/self/exe", "--read", endpoints, "--documents", absl::StrCat(documents), "--to", path_}))) {}

std::vector<TimedRead> Reader::reads() const {
  std::vector<TimedRead> reads;
  std::ifstream file(path_, std::ios::binary);
  for (TimedRead read; file.read(reinterpret_cast<char*>(&read), sizeof(read));) reads.push_back(read);
  return reads;
}

std::vector<double> Reader::In(absl::Span<const Window> windows) const {
  std::vector<double> seconds;
  for (const TimedRead& read : reads()) {
    const auto due = [&](const Window& window) { return window.begin <= read.due && read.due < window.end; };
    if (std::ranges::any_of(windows, due)) seconds.push_back(read.seconds);
  }
  return seconds;
}

int64_t Reader::failed() const {
  const std::vector<TimedRead> all = reads();
  return std::ranges::count_if(all, [](const TimedRead& read) { return !read.ok; });
}

void ReadForever(const std::string& endpoints, int documents, const std::string& path) {
  const auto address = Must(store::cluster::ParseClusterAddress(endpoints));
  store::cluster::ReplicatedOptions options;
  options.node.name = "bench";
  options.node.carrier = store::client::Carrier::kUcx;
  const auto store = Must(store::cluster::OpenReplicated(
      Must(store::cluster::Membership::Open({address, std::nullopt, {}, {}}, Soon())), nullptr, options));
  const Corpus corpus(kDocuments, kDocument);
  std::vector<Identity> identities;
  for (int i = 0; i < documents; ++i) identities.push_back(corpus.Named(i).identity);
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  std::mt19937_64 random(1);
  bool told = false;
  for (double due = Now();; due += absl::ToDoubleSeconds(kInterval)) {
    if (due > Now()) absl::SleepFor(absl::Seconds(due - Now()));
    const absl::Status read = ReadOne(store.get(), corpus.ns(), identities[random() % identities.size()]);
    if (!read.ok()) std::fprintf(stderr, "a read: %s\n", read.ToString().c_str());
    const TimedRead record{due, Now() - due, read.ok()};
    if (write(file, &record, sizeof(record)) != sizeof(record)) Die("cannot record a read");
    if (!std::exchange(told, true)) {
      std::printf("reading\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace kvlink::bench::members
