// Catalog entries: whatever parses must survive being written and read again. The first byte says whether the rest is a
// whole record or a payload that gets its envelope here, so that the checksum does not stop the search.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/catalog.h"
#include "proto/envelope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const kvlink::EnvelopeKind kind{0x434C564B, 2, 0, "catalog"};
  const std::string bytes = data[0] == 'r' ? std::string(rest) : kvlink::WrapEnvelope(kind, rest);
  const auto parsed = kvlink::ParseCatalogEntry(bytes);
  if (!parsed.ok()) return 0;
  const std::string written = kvlink::SerializeCatalogEntry(*parsed);
  const auto again = kvlink::ParseCatalogEntry(written);
  if (!again.ok() || kvlink::SerializeCatalogEntry(*again) != written) std::abort();
  return 0;
}
