// Location records, their keys, and namespace records: whatever parses must survive being written and read again. The
// first byte says what the rest is: 'k' a key, 'n' the payload of a namespace record, 'b' that of a
// bad blocks record, 'r' a whole location record, else
// the payload of one. A payload gets its envelope here, so that the checksum does not stop the search.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/envelope.h"
#include "store/engine/disk/location.h"
#include "store/engine/index/namespace_settings.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink;
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'k') {
    const auto key = engine::DecodeKey(rest);
    if (key.ok() && engine::EncodeKey(*key) != rest) std::abort();
    return 0;
  }
  if (data[0] == 'n') {
    const EnvelopeKind kind{0x534e564b, 2, 0, "namespace record"};
    const std::string record = WrapEnvelope(kind, rest);
    const auto settings = engine::ParseNamespaceSettings(record);
    if (settings.ok() && engine::SerializeNamespaceSettings(*settings) != record) std::abort();
    return 0;
  }
  if (data[0] == 'b') {
    const EnvelopeKind kind{0x4242564b, 1, 0, "bad blocks record"};
    const std::string record = WrapEnvelope(kind, rest);
    const auto runs = engine::ParseBadBlocks(record);
    if (runs.ok() && engine::SerializeBadBlocks(*runs) != record) std::abort();
    return 0;
  }
  const EnvelopeKind kind{0x4c53564b, 2, 0, "location record"};
  const auto parsed = engine::ParseLocation(data[0] == 'r' ? std::string(rest) : WrapEnvelope(kind, rest));
  if (!parsed.ok()) return 0;
  const std::string written = engine::SerializeLocation(*parsed);
  // Numbers have one form, so a payload that parses is the one that is written.
  if (data[0] != 'r' && written != WrapEnvelope(kind, rest)) std::abort();
  if (written.size() > 768) std::abort();
  const auto again = engine::ParseLocation(written);
  if (!again.ok() || engine::SerializeLocation(*again) != written || again->runs != parsed->runs) std::abort();
  return 0;
}
