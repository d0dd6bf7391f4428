// Lines of a catalog file: whatever is read must survive being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "store/cli/catalog_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view line(reinterpret_cast<const char*>(data), size);
  (void)kvlink::cli::ParseCatalogHead(line).status();
  const auto parsed = kvlink::cli::ParseCatalogLine(line);
  if (!parsed.ok()) return 0;
  const std::string written = kvlink::cli::CatalogLine(parsed->put.id, parsed->put.entry);
  const auto again = kvlink::cli::ParseCatalogLine(kvlink::cli::LastCatalogLine(written));
  if (!again.ok() || !again->last || kvlink::cli::CatalogLine(again->put.id, again->put.entry) != written) std::abort();
  return 0;
}
