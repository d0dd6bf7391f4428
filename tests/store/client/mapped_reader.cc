// A reader for tests that freeze or kill it: mapped_reader CONTROL_ADDRESS ETAG. Takes a lease on encoding 7 of the
// tests, says that it holds it, and looks again when its standard input ends.
#include <cstdio>
#include <string>

#include "base/clock.h"
#include "store/client/remote.h"
#include "tests/store/synthetic.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using kvlink::testing::Synthetic;
  if (argc != 3) return 2;
  kvlink::store::client::RemoteOptions options;
  options.address = argv[1];
  options.carrier = kvlink::store::client::Carrier::kMapped;
  const auto store = kvlink::store::client::OpenRemote(options);
  if (!store.ok()) return Fail(store.status());
  const Synthetic s = kvlink::testing::MakeSynthetic(7, 4, 600, 2, 32);
  if (s.manifest.etag.Hex() != argv[2]) return 2;
  const absl::Time deadline = kvlink::SteadyNow() + absl::Seconds(60);
  const auto lease = (*store)->Read("ns", s.manifest.identity, s.manifest.codec, s.manifest.etag, deadline);
  if (!lease.ok()) return Fail(lease.status());
  for (int layer = 0; layer < 4; ++layer) {
    const absl::Status status = (*lease)->WaitLayer(layer, deadline);
    if (!status.ok()) return Fail(status);
  }
  std::puts("holds");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  bool same = true;
  for (int layer = 0; layer < 4; ++layer) same = same && (*lease)->layer(layer) == absl::MakeConstSpan(s.slabs[layer]);
  const bool intact = (*lease)->intact();
  std::printf("%s, %s bytes\n", intact ? "intact" : "lapsed", same ? "the same" : intact ? "WRONG" : "other");
  return 0;
}
