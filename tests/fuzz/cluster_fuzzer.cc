// What etcd holds of a cluster, and the files that bind a store to one: whatever parses must survive being written and
// read again. The first byte says which: 'c' the cluster, 'm' a member, 'a' who is alive, 'p' progress, 'e' the epoch,
// 'h' what is hot, 'k' a key, 'b' the payload of a CLUSTER file and 'n' that of an ENTERED file, which get their
// envelopes here.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/envelope.h"
#include "store/cluster/members/records.h"
#include "store/cluster/node/binding.h"

namespace {

template <typename Parse, typename Serialize>
void Check(const Parse& parse, const Serialize& serialize, absl::string_view bytes) {
  const auto parsed = parse(bytes);
  if (!parsed.ok()) return;
  const std::string written = serialize(*parsed);
  const auto again = parse(written);
  if (!again.ok() || serialize(*again) != written) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink::store::cluster;
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'c':
      Check([](absl::string_view bytes) { return ParseCluster("default", bytes); }, SerializeCluster, rest);
      break;
    case 'm':
      Check(ParseMember, SerializeMember, rest);
      break;
    case 'a':
      Check(ParseAlive, SerializeAlive, rest);
      break;
    case 'p':
      Check(ParseProgress, SerializeProgress, rest);
      break;
    case 'e':
      Check(ParseEpoch, SerializeEpoch, rest);
      break;
    case 'h':
      Check(ParseHot, SerializeHot, rest);
      break;
    case 'k':
      if (const auto key = ParseKey("x", rest); key.has_value() && KeyOf("x", key->kind, key->id) != rest) std::abort();
      break;
    case 'b': {
      const kvlink::EnvelopeKind kind{0x4c43564b, 1, 0, "CLUSTER file"};
      Check(ParseBinding, SerializeBinding, kvlink::WrapEnvelope(kind, rest));
      break;
    }
    case 'n': {
      const kvlink::EnvelopeKind kind{0x4e45564b, 1, 0, "ENTERED file"};
      Check(ParseEntered, SerializeEntered, kvlink::WrapEnvelope(kind, rest));
      break;
    }
  }
  return 0;
}
