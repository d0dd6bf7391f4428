// Messages of the data path: whatever parses must survive being written and read again. The first byte says which
// message ('q' request, 'a' answer, capitals: with an envelope of its own instead of one made here).
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/data.h"
#include "proto/envelope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool request = (data[0] | 0x20) == 'q';
  const kvlink::EnvelopeKind kind{request ? 0x524C564Bu : 0x414C564Bu, 2, 0, request ? "request" : "answer"};
  const bool wrapped = data[0] < 'a';
  const std::string bytes = wrapped ? std::string(rest) : kvlink::WrapEnvelope(kind, rest);
  const auto check = [&](const auto& parse, const auto& serialize) {
    const auto parsed = parse(bytes);
    if (!parsed.ok()) return;
    const std::string written = serialize(*parsed);
    const auto again = parse(written);
    if (!again.ok() || serialize(*again) != written) std::abort();
  };
  if (request) {
    check([](absl::string_view text) { return kvlink::ParseRequest(text); },
          [](const kvlink::proto::Request& read) { return kvlink::SerializeRequest(read); });
  } else {
    check(kvlink::ParseAnswer, [](const kvlink::proto::Answer& read) { return kvlink::SerializeAnswer(read); });
  }
  return 0;
}
