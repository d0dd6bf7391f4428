// Access files: whatever parses grants something, to keys of the file alone.
#include <cstdint>
#include <cstdlib>

#include "store/node/access.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto list = kvlink::store::node::AccessList::Parse(text);
  if (!list.ok()) return 0;
  if (!list->guarded() || list->Find("").ok()) std::abort();
  // Every field that is a key opens what its line says.
  size_t begin = 0;
  bool any = false;
  while (begin < size) {
    size_t end = begin;
    while (end < size && text[end] != ' ' && text[end] != '\t' && text[end] != '\n' && text[end] != '\r' &&
           text[end] != '#')
      ++end;
    const auto grant = list->Find(text.substr(begin, end - begin));
    if (grant.ok()) {
      any = true;
      if (end - begin < 16 || (!grant->every_namespace && grant->namespaces.empty())) std::abort();
    }
    begin = end + 1;
  }
  if (!any) std::abort();
  return 0;
}
